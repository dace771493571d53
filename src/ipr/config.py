"""Every knob of a run, documented where it is declared.

A run's config is: defaults (this file) < preset (`flows/configs/<preset>.yaml`, holding only what differs) or a YAML
file of the user's < dotted overrides (`train.learning_rate=1e-4`). Unknown keys are refused with a suggestion.
Left out on purpose: environment variables and interpolation. One file says what a run was: `<run>/config.yaml`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from datetime import date as Date
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ipr import algorithms, yaml12
from ipr.types import IprError

EMBEDDED = "embedded"
DATE = "2024-07-26"
"""The day that Llama-3.1's template falls back to where it has no clock."""
REGISTERED = "ipr-agent"
BASES = Path(__file__).parent / "models" / "embedded"
"""The small base models shipped with the package, each in a folder named after its environment."""


def public(uri: str) -> str:
    """An address without its password, nor a user that is a token: to be shown."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def without_secret(uri: str | None, instead: str, *, user: bool = False) -> str | None:
    """`uri`. Raises ValueError, naming what to set `instead`, where it holds a password, or a user unless allowed."""
    who, at, _ = urlsplit(uri or "").netloc.rpartition("@")
    if at and (not user or ":" in who):
        raise ValueError(f"no user or password in an address, it would be written to the run's files; set {instead}")
    return uri


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A file or folder of this machine; a shell leaves the ~ of KEY=~/x alone."""


class EnvConfig(_Section):
    name: str = "alfworld"
    """Environment, one of `ipr env list`: alfworld, sql, webshop, or an installed package's."""
    data: LocalPath | None = None
    """Folder of the real data set; null plays the generated world."""
    server: str | None = None
    """A MySQL or MariaDB for InterCodeSQL in place of SQLite, mysql://user@host/ (password: IPR_MYSQL_PASSWORD)."""
    max_steps: int | None = Field(default=None, ge=1)
    """Step limit of an episode; null takes the environment's own (ALFWorld 20)."""
    shots: Literal[0, 1] = 0
    """Worked examples put before every conversation: an expert's episode of the split "pretrain" (real data: train)."""
    experts: LocalPath | None = None
    """Parquet of expert trajectories (`ipr data import`), in place of the environment's own; null makes them."""
    tasks: int = Field(default=2851, ge=1)
    """Problems of the train split that have expert trajectories and are explored (fewer when there are fewer)."""

    @field_validator("server")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        return without_secret(value, "IPR_MYSQL_PASSWORD", user=True)


class LoraConfig(_Section):
    rank: int = Field(default=0, ge=0)
    """Rank of the adapters; 0 trains the full model."""
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """Module names, or "all-linear", as in peft (routers, which give choices too, left out)."""


class ModelConfig(_Section):
    path: LocalPath = "embedded"
    """"embedded" (the small base model shipped for the environment; "embedded-sql" and the like name one), a local
    folder, or a hub name, for transformers."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights while playing; training keeps float32 weights where `train.mixed_precision` is set."""
    device: str = "auto"
    """"auto" (cuda where there is one, else cpu), "cpu", "cuda", "cuda:1"."""
    max_length: int = Field(default=4096, ge=64)
    """Longest conversation in tokens, playing and training; the model's own limit where that is smaller."""
    lora: LoraConfig = LoraConfig()
    freeze_embeddings: bool = False
    """Train all but the words' embeddings (input and output), so that words which no example holds keep their meaning:
    a small model that is trained on few databases forgets how to copy other names. An adapter leaves them anyway."""
    date: str = DATE
    """Today (year-month-day) for a chat template that shows the date: Llama-3.2, Granite, SmolLM3. It is kept in the
    trained model's template, so that servers show the date that the agent was trained with."""

    @field_validator("date", mode="before")
    @classmethod
    def _a_day(cls, value: Any) -> str:
        return str(Date.fromisoformat(str(value)))


class TrainConfig(_Section):
    """One training stage; `sft` and `train` are two of these."""

    epochs: int = Field(default=3, ge=0)
    """Passes over the examples. `sft.epochs=0`: the base model is the SFT agent as it is."""
    updates: int | None = Field(default=None, ge=1)
    """Updates in all, whatever the number of examples, in place of `epochs`; null: as many as the epochs have."""
    batch_size: int = Field(default=48, ge=1)
    """Examples per update (accumulated from micro batches, over all processes)."""
    micro_batch_tokens: int = Field(default=16384, ge=256)
    """Most tokens (padding included) in one forward pass of training."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon": Muon for the matrices between the embeddings, AdamW for the rest. For training from little or nothing."""
    learning_rate: float = Field(default=2e-5, gt=0)
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates with a rising learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    mixed_precision: Literal["no", "bf16"] = "no"
    checkpoint_every: int = Field(default=50, ge=1)
    """Updates between resumable checkpoints."""
    observation_weight: float = Field(default=0.0, ge=0, le=1)
    """SFT only: weight of the environment's tokens in the loss. 0 is the paper (agent tokens only)."""
    temperature: float = Field(default=1.0, gt=0)
    """SFT only: by what logits are divided in the loss and in its figures. 1 is the paper. Above 1 the agent has to be
    sure at this temperature, so what it samples at 1 is close to its greedy play."""


class PreferenceConfig(TrainConfig):
    """The paper's third stage: L_outcome-DPO + L_step-DPO + L_SFT."""

    learning_rate: float = Field(default=1e-5, gt=0)
    average: bool = False
    """The agent of iteration K has the mean of the weights of the SFT agent and of what iterations 1 to K trained, each
    on from the mean before. More of what the SFT agent could do stays (model soups, arXiv 2203.05482)."""
    beta: float = Field(default=0.1, gt=0)
    """beta of DPO; paper 0.1 to 0.5."""
    outcome_dpo: float = Field(default=1.0, ge=0)
    """Weight of L_outcome-DPO (0 is the paper's ablation)."""
    step_dpo: float = Field(default=1.0, ge=0)
    """Weight of L_step-DPO (0 is the paper's ablation)."""
    sft: float = Field(default=1.0, ge=0)
    """Weight of L_SFT (0 is the paper's ablation)."""
    sft_on: Literal["outcome", "every"] = "outcome"
    """Whose chosen remainders L_SFT is on: "outcome" pairs (paper) or "every" pair (released code)."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """epsilon of PPO: how far a token's probability ratio may move and still be pushed on."""


class AlgorithmConfig(_Section):
    name: str = "ipr"
    """"ipr", "eto", "rft", "best", "raft", "sft" (the control), "rloo", "step-rloo", "ppo", "step-ppo"
    (docs/concepts.md has what each does); or an installed package's."""
    iterations: int = Field(default=4, ge=1)
    """Paper: at most 4, a 5th made it worse."""
    samples: int = Field(default=5, ge=1)
    """N, rollouts of the scorer per step reward."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the scorer's rollouts."""
    explore_tasks: int | None = Field(default=None, ge=1)
    """Problems explored in an iteration, another seeded choice in each; null explores all (paper)."""
    explore_temperature: float = Field(default=0.0, ge=0)
    """Of the exploring agent; the paper explores greedily."""
    draws: int = Field(default=1, ge=1)
    """Episodes from each explored prefix at most, until one earns `success`; more than 1 need
    explore_temperature above 0. RLOO and PPO play and keep all of them."""
    weigh: bool = False
    """Of `best`: a success counts as often as its problem took draws, so that easy problems do not crowd out the
    others."""
    success: float = Field(default=1.0, le=1)
    """Outcome reward from which on an episode is a success (WebShop's experts have more than 0.7)."""
    tau: float = Field(default=0.5, ge=0)
    """Step pairs are kept when the difference of step rewards is above it. ALFWorld 0.5, WebShop 0.01, SQL 0.1."""
    outcome_margin: float = Field(default=0.0, ge=0)
    """Margin of the outcomes, kept when the difference is above it."""
    agent_wins: bool = False
    """Also take the pairs the other way round where the agent beats the expert by both margins (released code)."""
    join: bool = True
    """Exact saving: a greedy episode that comes to where another one starts is not played twice from there."""
    gate: bool = True
    """Exact saving: no step reward is sampled where the outcomes already decide that there is no pair."""
    skip_equal: bool = True
    """Exact saving: no step reward is sampled where the agent's action equals the expert's."""
    reuse: bool = True
    """Exact saving: step rewards of earlier iterations are reused (the scorer never changes)."""
    curtail: bool = False
    """Exact saving: stop a step's samples as soon as the decision on its pair is fixed (its mean is then censored)."""
    cache: LocalPath | None = None
    """Exact saving: file, from the project's folder, that keeps the scorer's outcomes for other runs; null: none."""
    error: float = Field(default=0.0, ge=0, lt=0.5)
    """With `curtail`, stop too where the decision of all N differs with at most this probability; 0 is exact."""
    confidence: float = Field(default=0.0, ge=0, lt=1)
    """0: step pairs by the difference of means (paper). E.g. 0.95: by its lower confidence bound, fewer by chance."""

    rewards: Literal["monte_carlo", "model"] = "monte_carlo"
    """Step rewards: "monte_carlo" (N rollouts), or from the second iteration on by a "model" that is fitted to those of
    the first, with the knobs of `sft`."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        algorithms.get(value)
        return value

    @field_validator("rewards")
    @classmethod
    def _with_samples(cls, value: str, info: ValidationInfo) -> str:
        if value == "model" and info.data.get("curtail"):
            raise ValueError("is fitted to means of all N samples; set algorithm.curtail=false, or rewards=monte_carlo")
        if value == "model" and info.data.get("confidence"):
            raise ValueError("gives no samples; set algorithm.confidence=0, or rewards=monte_carlo")
        if value == "model" and info.data.get("iterations") == 1:
            raise ValueError("is used from the second iteration on; set algorithm.iterations=2, or rewards=monte_carlo")
        return value

    @field_validator("draws")
    @classmethod
    def _drawn_anew(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("explore_temperature") == 0:
            raise ValueError(
                "greedy episodes from a prefix are all the same; set algorithm.explore_temperature above 0, or draws=1"
            )
        return value

    @field_validator("error", "confidence")
    @classmethod
    def _with_curtail(cls, value: float, info: ValidationInfo) -> float:
        if value and info.field_name == "error" and not info.data.get("curtail"):
            raise ValueError("only stops what is curtailed; set algorithm.curtail=true, or error=0")
        if value and info.field_name == "confidence" and info.data.get("curtail"):
            raise ValueError("needs all N samples; set algorithm.curtail=false, or confidence=0")
        return value


class RolloutConfig(_Section):
    backend: str = "transformers"
    """What runs the model: "transformers" with our own engine (CPU or GPU), or "vllm" by its server, which draws
    random numbers of its own and rounds otherwise; those of `ipr.policies.BACKENDS`."""
    endpoint: str | None = None
    """URL of a vLLM server (http://host:8000/v1) that runs the model. Needs backend=vllm and `model.lora.rank`. Decides
    no result."""
    vllm: LocalPath | None = None
    """The `vllm` command of another environment, by its path: the run starts its server on this machine, and ends it.
    Needs backend=vllm. Decides no result."""
    slots: int = Field(default=128, ge=1)
    """Episodes played at the same time."""
    shard: int = Field(default=1024, ge=1)
    """Episodes (about, at most) whose results are written together: what a killed run plays again at most, and what one
    worker plays at a time. On a CPU a stage has two shards at least. Small ones are spread evenly over the workers,
    large ones keep the batch full."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Per turn of the agent."""
    kv_dtype: Literal["model", "bfloat16"] = "model"
    """Type of the kept key-values: the model's, or bfloat16, which halves their memory; on a CPU it is slower, as rows
    then read alone what they have in common. (vLLM keeps the model's.)"""
    workers: int = Field(default=1, ge=1)
    """Processes of one thread each that play; 1 plays in the run's own process. Decides no result."""
    scheduler: str | None = None
    """Address of a running Dask scheduler (tcp://host:8786) whose workers play instead. Decides no result."""

    def on_a_gpu(self, gpus: int) -> int:
        """Workers that share a GPU, where this machine has so many; a scheduler's each see to their own."""
        return 1 if self.scheduler else ceil(self.workers / max(1, gpus))

    @field_validator("endpoint", "scheduler")
    @classmethod
    def _no_secret(cls, value: str | None, info: ValidationInfo) -> str | None:
        return without_secret(value, "OPENAI_API_KEY" if info.field_name == "endpoint" else "Dask's own settings")


class EvalConfig(_Section):
    games: int = Field(default=200, ge=1)
    """Held-out test problems per split (fewer when there are fewer)."""
    splits: list[str] = ["seen", "unseen"]
    """Test splits, one at least; reported, never chosen by."""
    dev_games: int = Field(default=200, ge=1)
    """Problems of the dev split, by which the reported stage is chosen."""
    step_reward_games: int = Field(default=0, ge=0)
    """Test problems on which the average step reward (by the scorer) of SFT and of each iteration is estimated; 0
    leaves it out."""
    bootstrap: int = Field(default=2000, ge=100)
    """Resamples of the 95 % intervals."""

    @field_validator("splits")
    @classmethod
    def _held_out(cls, value: list[str]) -> list[str]:
        if not value or {"train", "dev"} & {*value} or len({*value}) < len(value):
            raise ValueError("names test splits, each once, such as [seen,unseen]; train and dev are no test")
        return value

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> how many problems at most."""
        return {"dev": self.dev_games} | dict.fromkeys(self.splits, self.games)


class EndpointConfig(_Section):
    """A hosted model (`ipr eval --endpoint`); its key comes from OPENAI_API_KEY alone."""

    concurrency: int = Field(default=16, ge=1)
    """Episodes played at the same time, so requests under way."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Requests are spread to at most this rate; null does not hold them back."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait for one answer."""
    retries: int = Field(default=6, ge=0)
    """After a timeout, a 429 or a 5xx: what Retry-After says is waited for, else 0.5 s, doubled up to 8 s."""
    price_in: float | None = Field(default=None, ge=0)
    """Dollars per million tokens read; null shows the cost as "unknown price"."""
    price_out: float | None = Field(default=None, ge=0)
    """Dollars per million tokens written."""
    parameters: dict[str, Any] = {}
    """More fields of every request, e.g. {reasoning_effort: low}; null leaves out one of ours: {temperature: null}."""

    @field_validator("parameters")
    @classmethod
    def _no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if re.search("key$|secret|password|authorization|^token", name, re.IGNORECASE):
                raise ValueError(f"'{name}' looks like a secret; a key comes from OPENAI_API_KEY alone")
        return value


class TrackConfig(_Section):
    uri: str | None = None
    """MLflow tracking server; null is sqlite in `mlflow/` of the project (or what MLFLOW_TRACKING_URI says)."""
    experiment: str = "ipr"
    registered_model: str = REGISTERED
    """Name in the model registry; alias `champion` is moved only when a model is better on dev. Agents of different
    environments, and of generated and real data, are different models: the default is "ipr-agent" for ALFWorld's
    generated games, "ipr-agent-sql", "ipr-agent-sql-real" and the like for the others."""
    traces: int = Field(default=20, ge=0)
    """Episodes of a stage, drawn with the run's seed, that go to MLflow as traces with their rewards; 0 sends none."""
    enabled: bool = True
    promote: bool = True
    """Whether the run's agent may become champion. The preset `smoke` says false."""
    min_dev_reward: float = 0.1
    """Mean reward on dev without which an agent never becomes champion, even where there is none yet."""

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        return without_secret(
            value,
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a database: the whole"
            " address in MLFLOW_TRACKING_URI)",
        )


Told = Literal["failed", "crashed", "late", "skipped", "worse", "promoted"]
"""What may be told: a run ended with an error; its process was killed; a scheduled run started late; one had nothing to
do or gave way to another; its agent is worse than the champion; it is the new champion."""


class AlertsConfig(_Section):
    """Who is told, once for a run and event. Secrets come from the environment alone."""

    events: list[Told] = ["failed", "crashed", "late", "skipped", "worse", "promoted"]
    """What is told: all of these, or some."""
    webhook: str | None = None
    """URL that an alert is posted to. One that is a secret (Slack's) belongs into IPR_ALERTS_WEBHOOK instead; a token
    in IPR_ALERTS_TOKEN is sent as "Authorization: Bearer"."""
    form: Literal["json", "slack"] = "json"
    """What is posted: all fields as JSON, or {"text": ...} as Slack, Mattermost and Teams take it."""
    email: list[str] = []
    """Addresses that get a mail, through `smtp`."""
    smtp: str = "smtp://localhost:25"
    """Mail server, smtp:// (STARTTLS where offered) or smtps://; IPR_SMTP_USER and IPR_SMTP_PASSWORD log in."""
    sender: str = "ipr@localhost"
    """Of the mails."""
    command: str | None = None
    """A program with arguments (no shell) that gets the alert as JSON on standard input."""
    late_minutes: float = Field(default=30, gt=0)
    """A scheduled run that starts more minutes after its time is late."""

    @field_validator("webhook", "smtp")
    @classmethod
    def _no_secret(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and "hooks.slack.com" in value:
            raise ValueError("Slack's address is a secret: leave the key out and set IPR_ALERTS_WEBHOOK")
        names = {"webhook": "IPR_ALERTS_WEBHOOK (the whole address)", "smtp": "IPR_SMTP_USER and IPR_SMTP_PASSWORD"}
        return without_secret(value, names[str(info.field_name)])


class DataConfig(_Section):
    publish: bool = True
    """Copy the run's data sets to `data/`, `dvc add` and `dvc push` them."""
    remote: str | None = None
    """DVC remote to push to; null is the project's default remote."""


class PlaceConfig(_Section):
    store: LocalPath | None = None
    """s3://bucket/prefix or a folder that keeps what is finished of the run's folder, for another machine to continue
    from; null: the run's folder alone. The endpoint and keys are AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on."""


class MachineConfig(_Section):
    """What a run is planned for: `ipr run --dry-run` says whether it fits and how long it takes. Decides no result."""

    gpus: int = Field(default=1, ge=1)
    """GPUs that train together, a process each (`accelerate launch --num_processes`)."""
    memory: float | None = Field(default=None, gt=0)
    """GiB of each; a run that needs more is refused. null: of the GPU that is here, and without one any size goes."""
    training_speed: float | None = Field(default=None, gt=0)
    """Tokens a second, of all GPUs together, that training goes through (`python -m benchmarks.gpu training`)."""
    playing_speed: float | None = Field(default=None, gt=0)
    """Tokens a second, of all that play together, that agents write (`python -m benchmarks.gpu engines`)."""


class RunConfig(_Section):
    seed: int = 0
    env: EnvConfig = EnvConfig()
    model: ModelConfig = ModelConfig()
    sft: TrainConfig = TrainConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    train: PreferenceConfig = PreferenceConfig()
    rollout: RolloutConfig = RolloutConfig()
    eval: EvalConfig = EvalConfig()
    endpoint: EndpointConfig = EndpointConfig()
    track: TrackConfig = TrackConfig()
    data: DataConfig = DataConfig()
    alerts: AlertsConfig = AlertsConfig()
    run: PlaceConfig = PlaceConfig()
    machine: MachineConfig = MachineConfig()

    def to_yaml(self) -> str:
        return yaml12.dumps(self.model_dump())


def load(source: str | Path | None = None, overrides: Iterable[str] = (), presets: Path | None = None) -> RunConfig:
    """The config of preset or YAML file `source` with dotted `overrides` ("train.beta=0.2").

    Raises IprError naming the key or file and the fix, also for an override that the method has no use for. (A preset
    serves every method, so its keys may be idle.)
    """
    tree: dict[str, Any] = {}
    overridden: list[str] = []
    if source is not None:
        path = _find(str(source), presets)
        tree = read_yaml(path)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise IprError(f"override '{override}' is not KEY=VALUE, e.g. train.learning_rate=1e-4")
        _set(tree, key, _parse(value))
        overridden.append(key)
    config = validate(tree, str(source or "defaults"))
    for key in overridden:
        if ignores(config, key):
            raise IprError(f"override '{key}' has no effect with algorithm.name={config.algorithm.name}; leave it out")
    return config


def ignores(config: RunConfig, key: str) -> bool:
    """Whether the config's method has no use for a key. With `eval.step_reward_games` the agents of every method are
    judged by sampled step rewards."""
    judged = config.eval.step_reward_games and key in ("algorithm.samples", "algorithm.temperature")
    return not judged and algorithms.ignores(config.algorithm.name, key)


def embedded(path: str, env: str) -> str:
    """`path`, or where it is "embedded" the name of the base model shipped for the environment; else ALFWorld's."""
    return f"{EMBEDDED}-{env if env in shipped() else 'alfworld'}" if path == EMBEDDED else path


def shipped() -> list[str]:
    """The environments that have a base model in the package."""
    return sorted(config.parent.name for config in BASES.glob("*/config.json"))


def validate(tree: dict[str, Any], where: str) -> RunConfig:
    """A RunConfig from nested dictionaries; `where` names their source in error messages."""
    try:
        config = RunConfig.model_validate(tree)
        env = config.env.name
        model = config.model.model_copy(update={"path": embedded(config.model.path, env)})
        track = config.track
        if track.registered_model == REGISTERED:
            name = REGISTERED + (f"-{env}" if env != "alfworld" else "") + ("-real" if config.env.data else "")
            track = track.model_copy(update={"registered_model": name})
        return config.model_copy(update={"model": model, "track": track})
    except IprError as error:
        raise IprError(f"{where}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, list(keys()), n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else "; see `ipr run --help-config` for all keys"
            raise IprError(f"{where}: unknown key '{key}'{hint}") from None
        raise IprError(f"{where}: {key}: {first['msg']} (got {_shown(first['input'])})") from None


def _shown(value: Any) -> str:
    """What was given, without what may be a secret."""
    text = public(value) if isinstance(value, str) else value
    return "a secret" if "hooks.slack.com" in str(value) or isinstance(value, dict) else repr(text)


def keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, str]:
    """Every dotted key with its documentation."""
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = " ".join((info.description or "").split())
    return found


def flat(config: RunConfig, exclude: Any = None) -> dict[str, Any]:
    """Dotted keys and values, e.g. for MLflow's params; without those that `exclude` names (as pydantic takes it)."""
    return _flat(config.model_dump(exclude=exclude))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises IprError naming the file."""
    try:
        tree = yaml12.loads(path.read_text()) or {}
    except (OSError, *yaml12.UNREADABLE) as error:
        raise IprError(f"config {path}: {yaml12.words(error)}; fix the file") from None
    if not isinstance(tree, dict):
        raise IprError(f"config {path}: holds {type(tree).__name__}, not sections such as 'train:'; fix the file")
    return tree


def preset_names(presets: Path) -> list[str]:
    return sorted(p.stem for p in presets.glob("*.yaml"))


def _find(source: str, presets: Path | None) -> Path:
    preset = presets / f"{source}.yaml" if presets else None
    if preset and preset.is_file():
        return preset
    if Path(source).is_file():
        return Path(source)
    names = preset_names(presets) if presets else []
    near = difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"presets: {', '.join(names)}; or give a YAML file"
    raise IprError(f"no preset or file '{source}'; {hint}")


def _parse(value: str) -> Any:
    try:
        return yaml12.loads(value)
    except yaml12.UNREADABLE:
        return value


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise IprError(f"override '{dotted}': '{part}' is a value, not a section")
        tree = child
    tree[last] = value


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{key}.")
        else:
            rows[prefix + key] = value
    return rows

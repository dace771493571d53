"""Small objects and files in a place that machines share: a folder, or a bucket of an S3-compatible store.

Decided here: a write may name what it replaces, and is refused where that has changed (on S3 a conditional put, in a
folder a lock), so that of two writers none is lost. A file is checked by its SHA-256 on its way back.
Left out on purpose: other stores. Keys come from the environment as boto3 reads it, never from a URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ipr import store
from ipr.types import IprError

LOCK_WAIT = 60.0
"""Seconds to wait for another writer of a folder; it writes one small file."""
CONNECT, READ, ATTEMPTS = 5, 30, 2
"""Seconds to reach S3, to wait for its answer, and how often: one that is down is noticed soon."""
FREE = "free"
"""`was` of a write that may replace nothing: the key must be free."""


class Changed(Exception):
    """What a write was to replace is no longer there: read again, and write on top of that."""


class Bucket(Protocol):
    url: str

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The object and a tag of this content; None where there is none."""
        ...

    def write(self, key: str, content: bytes, was: str | None = None) -> None:
        """Put the object; with `was` (a tag, or FREE) only where that is what it replaces, else `Changed` is raised."""
        ...

    def keys(self, prefix: str = "") -> list[str]: ...

    def folders(self) -> list[str]:
        """The first parts of the keys that have several."""
        ...

    def upload(self, key: str, path: Path) -> None: ...

    def download(self, key: str, path: Path) -> None: ...

    def delete(self, keys: Sequence[str]) -> None: ...


def at(url: str, settings: dict[str, Any] | None = None) -> Bucket:
    """The bucket of "s3://bucket/prefix", or of a folder's path. `settings` are boto3's (endpoint_url, region_name).

    Raises IprError for other URLs. Whether it answers is not asked; its methods raise IprError where it does not.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("", "s3", "file"):
        raise IprError(f"{url}: neither an S3 bucket (s3://bucket/prefix) nor a folder")
    if "@" in parts.netloc:
        raise IprError("keys do not belong into a URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if parts.scheme != "s3":
        return _Folder(Path(parts.path))
    if not parts.netloc:
        raise IprError(f"{url}: which bucket? s3://bucket/prefix")
    return _S3(parts.netloc, parts.path.strip("/"), settings or {})


def fetch(bucket: Bucket, key: str, path: Path, sha256: str) -> None:
    """`key` as the file `path`, renamed into place when its SHA-256 is right. Raises IprError."""

    def bring(aside: Path) -> None:
        bucket.download(key, aside)
        if (found := sha256_of(aside)) != sha256:
            raise IprError(f"{bucket.url}/{key} is broken: its SHA-256 is {found}; remove it, and upload it again")

    store.replace(path, bring)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Folder:
    def __init__(self, folder: Path):
        self.folder, self.url = folder, str(folder)

    def read(self, key: str) -> tuple[bytes, str] | None:
        try:
            content = (self.folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error(error) from None
        return content, hashlib.md5(content).hexdigest()

    def write(self, key: str, content: bytes, was: str | None = None) -> None:
        from filelock import FileLock, Timeout

        path = self.folder / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_WAIT):
                present = self.read(key) if was is not None else None
                if was is not None and (present[1] if present else FREE) != was:
                    raise Changed(key)
                store.replace(path, lambda aside: aside.write_bytes(content))
        except Timeout:
            raise IprError(f"{path} is locked by another process; try again later") from None
        except OSError as error:
            raise self._error(error) from None

    def keys(self, prefix: str = "") -> list[str]:
        try:
            files = [p for p in self.folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
        except OSError as error:
            raise self._error(error) from None
        return sorted(k for p in files if (k := p.relative_to(self.folder).as_posix()).startswith(prefix))

    def folders(self) -> list[str]:
        try:
            return sorted(p.name for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        except OSError as error:
            raise self._error(error) from None

    def upload(self, key: str, path: Path) -> None:
        store.replace(self.folder / key, lambda aside: shutil.copyfile(path, aside))

    def download(self, key: str, path: Path) -> None:
        try:
            shutil.copyfile(self.folder / key, path)
        except OSError as error:
            raise self._error(error) from None

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def _error(self, error: OSError) -> IprError:
        return IprError(f"{error.filename or self.folder}: {error.strerror or error}")


class _S3:
    def __init__(self, bucket: str, prefix: str, settings: dict[str, Any]):
        self.bucket, self.prefix, self.settings = bucket, f"{prefix}/" if prefix else "", settings
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._made: Any = None

    @property
    def client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            config = Config(
                connect_timeout=CONNECT,
                read_timeout=READ,
                retries={"total_max_attempts": ATTEMPTS},
                request_checksum_calculation="when_required",  # stores that are not AWS may not know the newer ones
                response_checksum_validation="when_required",
            )
            rest = dict(self.settings)
            with self._told():
                session = boto3.Session(profile_name=rest.pop("profile_name", None))
                self._made = session.client("s3", config=config, **rest)
        return self._made

    def read(self, key: str) -> tuple[bytes, str] | None:
        client = self.client
        with self._told():
            try:
                found = client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            except client.exceptions.NoSuchKey:
                return None
            return found["Body"].read(), found["ETag"]

    def write(self, key: str, content: bytes, was: str | None = None) -> None:
        condition = {} if was is None else {"IfNoneMatch": "*"} if was == FREE else {"IfMatch": was}
        client = self.client
        with self._told():
            client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=content, **condition)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self._pages(Prefix=self.prefix + prefix)
        return [entry["Key"].removeprefix(self.prefix) for page in pages for entry in page.get("Contents", [])]

    def folders(self) -> list[str]:
        pages = self._pages(Prefix=self.prefix, Delimiter="/")
        found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return [name.removeprefix(self.prefix).rstrip("/") for name in found]

    def upload(self, key: str, path: Path) -> None:
        client = self.client
        with self._told():  # large files in parts, and each part is checked by its SHA-256 as it arrives
            client.upload_file(str(path), self.bucket, self.prefix + key, ExtraArgs={"ChecksumAlgorithm": "SHA256"})

    def download(self, key: str, path: Path) -> None:
        client = self.client
        with self._told():
            client.download_file(self.bucket, self.prefix + key, str(path))

    def delete(self, keys: Sequence[str]) -> None:
        client = self.client
        with self._told():
            for key in keys:  # not in bulk: stores other than AWS disagree on that request's checksum
                client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def _pages(self, **asked: str) -> list[dict[str, Any]]:
        client = self.client
        with self._told():
            return list(client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **asked))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What boto3 raises, in a line; a condition that does not hold is `Changed`."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            # 404: what was to be replaced is gone. 409: another conditional write is under way.
            if error.operation_name == "PutObject" and (
                status in (409, 412) or (status == 404 and error.response["Error"].get("Code") == "NoSuchKey")
            ):
                raise Changed(str(error)) from None
            raise IprError(f"{self.url}: {error}") from None
        except (BotoCoreError, Boto3Error, ValueError) as error:  # ValueError: an endpoint that is no address
            raise IprError(f"{self.url}: {' '.join(str(error).split())}") from None

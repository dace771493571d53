"""Generated databases: small invented worlds, each made in memory from its name alone.

Decided here: a domain is a few lines of text (`_TRAIN`, `_UNSEEN`); its variants differ in their rows and in how tables
and columns are called, so that one has to look before one asks. Train, dev and seen share domains; unseen has domains
of its own; pretrain and practice mix things of a third list into ever new schemas, practice without a word of unseen's.
Left out: files. A database is built in a few
milliseconds and has no bytes outside the process that anybody could change.

A line of a domain: `singular plural [< parent] | column:kind ...`, where a kind is `person`, `given`, `title`, `town`,
`year` (a span of them), numbers `low-high`, decimals `low-high.0`, or words `a,b,c`.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any

from ipr.envs.sql.engine import Row, Source
from ipr.types import derive_seed

VARIANTS = 6
"""Databases of each domain."""
MIXED = {"pretrain": "mixed", "practice": "practice"}
"""Pools of mixed schemas, and how the names of these begin."""
SCHEMAS = 3000
"""Of each of these pools."""

_TRAIN = """
aviary
keeper keepers | name:person town:town age:20-64
bird birds < keeper | name:given species:heron,kite,lark,owl,tern weight:20-900
feeding feedings < bird | food:seed,fish,worms,fruit amount:5-120
lighthouse
coast coasts | name:title length:20-400 climate:mild,stormy,foggy
lighthouse lighthouses < coast | name:given height:12-70 year:1820-1960 colour:white,red,black
lamp lamps < lighthouse | maker:title power:100-900
bakery
shop shops | name:title town:town seats:4-60
bread breads < shop | name:given flour:rye,wheat,oat,spelt price:1-9.0
purchase purchases < bread | customer:person pieces:1-24
railway
line lines | name:title length:15-480 gauge:narrow,normal,broad
station stations < line | name:town platforms:1-14 year:1850-1990
train trains < station | number:100-999 speed:60-240 kind:local,express,night
theatre
troupe troupes | name:title town:town year:1950-2015
play plays < troupe | title:title genre:comedy,tragedy,farce,musical minutes:60-200
actor actors < play | name:person age:18-75 role:lead,villain,chorus
orchard
farm farms | name:title town:town hectares:3-90
tree trees < farm | fruit:apple,pear,plum,cherry height:2-12 year:1970-2018
harvest harvests < tree | year:2015-2023 kilos:10-240
museum
museum museums | name:title town:town visitors:500-90000
painting paintings < museum | title:title style:baroque,modern,naive,gothic year:1600-1990
loan loans < painting | borrower:person days:5-180
harbour
harbour harbours | name:title town:town depth:4-30
ship ships < harbour | name:given flag:Norin,Velta,Osk,Tamar tons:50-9000
voyage voyages < ship | captain:person days:2-90 cargo:grain,timber,salt,iron
clinic
clinic clinics | name:title town:town beds:5-120
doctor doctors < clinic | name:person field:heart,eye,bone,skin age:28-68
visit visits < doctor | patient:person fee:20-300 year:2012-2023
school
school schools | name:title town:town pupils:80-1400
teacher teachers < school | name:person subject:maths,music,history,sport age:24-66
lesson lessons < teacher | room:1-40 hours:1-6 level:low,middle,high
observatory
observatory observatories | name:title altitude:300-4200 country:Norin,Velta,Osk,Tamar
telescope telescopes < observatory | name:given kind:radio,mirror,lens width:1-40
sighting sightings < telescope | observer:person object:comet,planet,nova,cluster year:1995-2023
brewery
brewery breweries | name:title town:town year:1700-1990
beer beers < brewery | name:given style:stout,lager,ale,porter strength:3-11.0
review reviews < beer | author:person points:1-10
circus
circus circuses | name:title country:Norin,Velta,Osk,Tamar tents:1-9
artist artists < circus | name:person act:clown,juggler,rider,acrobat age:16-60
evening evenings < artist | town:town guests:50-2500
mine
mine mines | name:title metal:copper,silver,tin,iron depth:40-1900
shaft shafts < mine | name:given length:50-2400 year:1900-2005
worker workers < shaft | name:person age:19-62 pay:900-3900
garden
garden gardens | name:title town:town area:200-9000
bed beds < garden | shape:round,square,long soil:sand,clay,peat width:1-20
flower flowers < bed | name:given colour:white,red,yellow,blue height:5-190
club
club clubs | name:title town:town members:20-900
player players < club | name:person position:goal,wing,centre,back age:17-39
outing outings < player | goals:0-5 minutes:1-90 year:2018-2023
cinema
cinema cinemas | name:title town:town seats:60-900
film films < cinema | title:title genre:drama,horror,comedy,western year:1960-2023
ticket tickets < film | buyer:person price:4-19.0
ferry
company companies | name:title country:Norin,Velta,Osk,Tamar staff:10-800
ferry ferries < company | name:given cars:10-240 year:1970-2020
crossing crossings < ferry | port:town minutes:15-300 season:spring,summer,autumn,winter
beehive
beekeeper beekeepers | name:person town:town age:22-80
hive hives < beekeeper | colour:green,white,yellow bees:2000-60000 year:2010-2023
jar jars < hive | honey:lime,acacia,forest grams:200-1500
bookshop
publisher publishers | name:title town:town year:1880-2005
book books < publisher | title:title genre:crime,travel,poetry,science pages:80-900
sale sales < book | buyer:person price:5-60.0
volcano
island islands | name:given ocean:north,south,middle area:20-7000
volcano volcanoes < island | name:title height:300-5200 state:active,sleeping,dead
eruption eruptions < volcano | year:1700-2020 days:1-300
hotel
hotel hotels | name:title town:town stars:1-5
room rooms < hotel | number:1-300 kind:single,double,suite price:40-420
guest guests < room | name:person age:18-88 nights:1-21
choir
choir choirs | name:title town:town year:1900-2018
singer singers < choir | name:person voice:soprano,alto,tenor,bass age:15-77
concert concerts < singer | hall:title guests:30-1900
workshop
workshop workshops | name:title town:town year:1890-2010
clock clocks < workshop | name:given wood:oak,walnut,pine,birch price:90-2400
repair repairs < clock | smith:person hours:1-40
"""

_UNSEEN = """
glacier
valley valleys | name:given region:east,west,north length:5-90
glacier glaciers < valley | name:title thickness:20-400 state:growing,shrinking,stable
probe probes < glacier | scientist:person year:1980-2022 depth:1-380
puppets
stage stages | name:title town:town seats:20-300
puppet puppets < stage | name:given material:wood,cloth,paper,clay age:1-90
tour tours < puppet | manager:person days:3-120
castle
castle castles | name:title country:Norin,Velta,Osk,Tamar year:1080-1650
tower towers < castle | name:given height:10-80 shape:round,square,pointed
knight knights < tower | name:person age:18-70 horses:1-9
radio
channel channels | name:title town:town listeners:500-80000
programme programmes < channel | title:title theme:news,jazz,sport,tales minutes:10-180
host hosts < programme | name:person age:21-70 pay:800-5200
pottery
kiln kilns | name:given fuel:gas,wood,coal heat:700-1400
vase vases < kiln | name:title glaze:matt,clear,blue,green price:15-600
buyer buyers < vase | name:person town:town year:2005-2023
rescue
post posts | name:title town:town dogs:1-20
boat boats < post | name:given engine:steam,diesel,electric year:1960-2021
mission missions < boat | leader:person saved:0-40 weather:calm,storm,fog
chess
league leagues | name:title country:Norin,Velta,Osk,Tamar year:1920-2010
master masters < league | name:person rating:1800-2800 style:bold,calm,odd
game games < master | moves:12-140 result:win,loss,draw year:1990-2023
spice
market markets | name:title town:town stalls:5-220
spice spices < market | name:given taste:hot,sweet,bitter,sour price:2-90
trader traders < spice | name:person age:19-81 sacks:1-60
"""

_MIXED = """
robot robots | name:given model:alpha,beta,gamma speed:1-30 year:2001-2023
pilot pilots | name:person country:Norin,Velta,Osk,Tamar age:23-63
drone drones | name:title reach:2-200 battery:10-99
village villages | name:town people:50-5000 region:east,west,north
bridge bridges | name:title length:10-900 material:stone,steel,wood
river rivers | name:given length:20-1200 colour:green,brown,clear
lawyer lawyers | name:person office:town cases:1-300
judge judges | name:person court:high,low,local age:35-75
painter painters | name:person style:bold,soft,dark year:1800-1980
statue statues | title:title stone:marble,granite,chalk height:1-25
library libraries | name:title town:town shelves:10-900
reader readers | name:person age:6-90 loans:0-80
novel novels | title:title language:Norish,Veltic,Oskan pages:90-1200
horse horses | name:given coat:bay,grey,black age:2-25
stable stables | name:title town:town boxes:4-60
race races | name:title metres:800-4000 prize:100-9000
cook cooks | name:person kitchen:north,coast,city age:18-70
dish dishes | name:given taste:mild,hot,sweet price:4-60
diver divers | name:person depth:5-120 town:town
wreck wrecks | name:title year:1700-1950 state:whole,broken,buried
pump pumps | maker:title power:5-500 place:field,cellar,tower
tailor tailors | name:person town:town years:1-50
coat coats | name:given cloth:wool,linen,silk price:30-700
band bands | name:title genre:rock,folk,jazz year:1965-2020
song songs | title:title minutes:2-12 mood:sad,glad,wild
planet planets | name:given moons:0-60 kind:gas,rock,ice
flight flights | name:title year:1990-2040 crew:1-12
engineer engineers | name:person field:water,power,roads pay:1500-7000
dam dams | name:title height:10-240 purpose:power,water,floods
goat goats | name:given colour:white,brown,spotted milk:1-6
shepherd shepherds | name:person town:town age:14-80
cheese cheeses | name:given age:1-36 kind:soft,hard,blue
violin violins | maker:person year:1690-1990 price:200-90000
student students | name:person subject:law,arts,physics age:17-33
exam exams | title:title points:1-100 year:2010-2023
server servers | name:given city:town memory:4-512
"""

_FIRST = "Tam Vel Ora Bren Kel Sia Dor Lun Mir Fen Jos Ari Nel Pav Run Esk Hal Ivo Ula Wen"
_SECOND = "a in el o is ek an ar um i"
_FAMILY = "Norr Vash Tol Breck Quill Marr Stenn Olde Farr Lisk Hove Drum Pell Wick Garr Ness"
_FAMILY_ENDS = "en ow ing er man ley ak as"
_TOWN = "Bel Kor Nar Osk Tre Vin Hul Mel Sar Dun Lor Pik"
_TOWN_ENDS = "ford stad burg holm by ton wick mere"
_TITLE = "Silver Quiet Old Golden Hidden Northern Crooked Blue Early Lost Iron Merry Broken Last Green Salt"
_TITLE_ENDS = "Crown Harbour Garden Star Wheel River Lantern Stone Field Gate Hill Bell Mirror Forest Road Wing"


@dataclass
class Column:
    """A column as a question and as a statement call it."""

    label: str
    name: str
    kind: str
    values: list[Any] = field(default_factory=list)
    """One for each row."""

    @property
    def words(self) -> bool:
        """Few different values, so that rows can be kept or counted by them."""
        return "," in self.kind or self.kind == "town"

    @property
    def number(self) -> bool:
        return "-" in self.kind

    @property
    def names(self) -> bool:
        """Says which row it is."""
        return self.kind in ("person", "given", "title")

    @property
    def type(self) -> str:
        if self.number:
            return "double" if "." in self.kind else "int"
        return "varchar(40)" if self.names else "varchar(20)"


@dataclass
class Table:
    """A table and what its rows are called."""

    singular: str
    plural: str
    name: str
    key: str
    columns: list[Column]
    parent: Table | None = None
    link: str = ""
    """The column that holds the parent's key."""
    parents: list[int] = field(default_factory=list)
    """The parent's key of each row."""

    @property
    def rows(self) -> int:
        return len(self.columns[0].values)


@dataclass
class Schema:
    """A database: its tables with their rows, parents first."""

    name: str
    tables: list[Table]

    def table(self, singular: str) -> Table:
        return next(t for t in self.tables if t.singular == singular)


@cache
def names(pool: str) -> list[str]:
    """The databases of a pool ("train", "unseen", "pretrain", "practice"), by name: "<domain>/<variant>"."""
    if pool in MIXED:
        return [f"{MIXED[pool]}{k:03d}/0" for k in range(SCHEMAS)]
    return [f"{domain}/{v}" for domain in _domains(pool) for v in range(VARIANTS)]


@lru_cache(maxsize=4)
def _domains(pool: str) -> dict[str, tuple[str, ...]]:
    """Domain -> the lines of its tables."""
    found: dict[str, list[str]] = {}
    for line in (_TRAIN if pool == "train" else _UNSEEN).strip().splitlines():
        if "|" in line:
            found[next(reversed(found))].append(line)
        else:
            found[line] = []
    return {domain: tuple(lines) for domain, lines in found.items()}


def _mix(pool: str, name: str) -> list[str]:
    """The lines of a mixed schema: three things that have nothing to do with each other, many of their names and
    values put in place of others, so that a reader learns to look names up and not to know them."""
    rng = random.Random(derive_seed("sql", "mixed", name))
    lines = [_renamed(line, pool, rng) for line in rng.sample(_MIXED.strip().splitlines(), 3)]
    above = [line.split()[0] for line in lines]
    parents = [None, above[0], above[rng.randrange(2)]]
    if len(set(above)) < 3:
        return _mix(pool, f"{name}+")
    return [
        line.replace(" |", f" < {parent} |") if parent else line for line, parent in zip(lines, parents, strict=True)
    ]


def _renamed(line: str, pool: str, rng: random.Random) -> str:
    head, _, tail = line.partition("|")
    things, labels, values = words(pool)
    if rng.random() < 0.7:
        head = " ".join(rng.choice(things)) + " "
    columns: dict[str, str] = {}
    for part in tail.split():
        label, _, kind = part.partition(":")
        if rng.random() < 0.7 and label != "name":
            label = rng.choice(labels)
        if "," in kind and rng.random() < 0.7:
            kind = ",".join(rng.sample(values, rng.randint(3, 4)))
        columns[label] = kind
    if rng.random() < 0.3:
        columns[rng.choice(labels)] = rng.choice(("1-90", "10-900", "1-9.0", "1900-2020"))
    columns.pop(head.split()[0], None)
    columns = columns or {"name": "title"}
    return f"{head}| {' '.join(f'{label}:{kind}' for label, kind in columns.items())}"


@cache
def words(pool: str = "pretrain") -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Names for a pool of mixed schemas: of things (one, many), of columns, and values; for pretrain the words of all
    domains, in other tables."""
    things: dict[tuple[str, str], None] = {}
    labels: dict[str, None] = {}
    values: dict[str, None] = {}
    for line in (_TRAIN + (_UNSEEN if pool == "pretrain" else "") + _MIXED).strip().splitlines():
        if "|" in line:
            head, _, tail = line.partition("|")
            things[head.split()[0], head.split()[1]] = None
            for part in tail.split():
                label, _, kind = part.partition(":")
                labels[label] = None
                values |= dict.fromkeys(kind.split(",") if "," in kind else ())
    return list(things), list(labels), list(values)


@lru_cache(maxsize=256)
def schema(pool: str, name: str) -> Schema:
    """A database with its rows, always the same."""
    domain, _, variant = name.partition("/")
    lines = _mix(pool, domain) if pool in MIXED else _domains(pool)[domain]
    rng = random.Random(derive_seed("sql", "database", pool, name))
    style = int(variant) % 3 if pool not in MIXED else rng.randrange(3)
    made = Schema(domain, [])
    towns = _some(rng, 7, _town)
    for line in lines:
        made.tables.append(_table(made, line, style, towns, rng))
    return made


def _table(made: Schema, line: str, style: int, towns: Sequence[str], rng: random.Random) -> Table:
    head, _, tail = line.partition("|")
    words = head.split()
    singular, plural = words[:2]
    parent = made.table(words[3]) if len(words) > 2 else None
    columns = []
    for part in tail.split():
        label, _, kind = part.partition(":")
        columns.append(Column(label, _column_name(label, singular, style), kind))
    name, key = (
        (plural, f"{singular}_id"),
        (singular, "id"),
        (plural.capitalize(), f"{singular.capitalize()}ID"),
    )[style]
    depth = 0 if parent is None else 1 if parent.parent is None else 2
    count = rng.randint(*((6, 10), (14, 26), (24, 44))[depth])
    for column in columns:
        column.values = _values(column.kind, count, towns, rng)
    table = Table(singular, plural, name, key, columns, parent)
    if parent is not None:
        table.link = f"{parent.singular}_id" if style != 2 else parent.key
        # Some parents have no rows of their own, and some have many.
        able = rng.sample(range(1, parent.rows + 1), max(2, parent.rows * 4 // 5))
        table.parents = [rng.choice(able[: rng.randint(1, len(able))]) for _ in range(count)]
    return table


def _column_name(label: str, singular: str, style: int) -> str:
    return (label, f"{singular}_{label}", label.capitalize())[style]


def _values(kind: str, count: int, towns: Sequence[str], rng: random.Random) -> list[Any]:
    if "," in kind:
        words = kind.split(",")
        return [rng.choice(words) for _ in range(count)]
    if "-" in kind:
        low, high = kind.split("-")
        if "." in high:
            return [round(rng.uniform(float(low), float(high)), 1) for _ in range(count)]
        return [rng.randint(int(low), int(high)) for _ in range(count)]
    if kind == "town":
        return [rng.choice(towns) for _ in range(count)]
    return _some(rng, count, {"person": _person, "given": _given, "title": _title}[kind])


def _some(rng: random.Random, count: int, make: Any) -> list[str]:
    """Different ones."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make(rng)] = None
    return list(found)


def _given(rng: random.Random) -> str:
    return _joined(rng, _FIRST, _SECOND)


def _person(rng: random.Random) -> str:
    return f"{_given(rng)} {_joined(rng, _FAMILY, _FAMILY_ENDS)}"


def _town(rng: random.Random) -> str:
    return _joined(rng, _TOWN, _TOWN_ENDS)


def _title(rng: random.Random) -> str:
    return _joined(rng, _TITLE, _TITLE_ENDS, " ")


def _joined(rng: random.Random, starts: str, ends: str, mark: str = "") -> str:
    return rng.choice(starts.split()) + mark + rng.choice(ends.split())


# As SQLite has it ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def source(pool: str, name: str) -> Source:
    """How the engine opens a generated database."""
    made = schema(pool, name)
    described = {table.name: _described(table) for table in made.tables}
    return Source(made.name, partial(_build, pool, name), described, f"{pool}/{name}")


def _build(pool: str, name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("BEGIN")
    for table in schema(pool, name).tables:
        parts = [f"{table.key} INTEGER PRIMARY KEY"]
        parts += [f"{column.name} {column.type}" for column in table.columns]
        if table.parent is not None:
            parts.append(f"{table.link} int REFERENCES {_quoted(table.parent.name)}({table.parent.key})")
        connection.execute(f"CREATE TABLE {_quoted(table.name)} ({', '.join(parts)})")
        values: list[Sequence[Any]] = [range(1, table.rows + 1), *(column.values for column in table.columns)]
        if table.parent is not None:
            values.append(table.parents)
        marks = ", ".join("?" * len(values))
        connection.executemany(f"INSERT INTO {_quoted(table.name)} VALUES ({marks})", zip(*values, strict=True))
    connection.execute("COMMIT")
    return connection


def _quoted(name: str) -> str:
    return f'"{name}"'


def _described(table: Table) -> list[Row]:
    rows: list[Row] = [(table.key, "int", "NO", "PRI", None, "")]
    rows += [(column.name, column.type, "YES", "", None, "") for column in table.columns]
    if table.parent is not None:
        rows.append((table.link, "int", "YES", "MUL", None, ""))
    return rows

"""MySQL 8.0's grammar of what can be asked, after sql_yacc.yy of the server, in the form that `recognise` reads.

Left out: statements that are not run here are only told by their first words.
"""

from __future__ import annotations

RULES = """
statement = (select | SHOW show | (DESC | DESCRIBE | EXPLAIN) describe | other) ';'? last

select = query locking* (INTO into locking*)?
query = with? body order? limit?
with = WITH RECURSIVE? cte%
cte = IDENT ('(' IDENT% ')')? AS subquery
subquery = '(' query locking* ')'
body = term ((UNION | EXCEPT | INTERSECT) (ALL | DISTINCT)? term)*
term = subquery | SELECT option* ('*' | item) (',' item)* (INTO into)? from? where? group? having? windows?
    | TABLE table | VALUES (ROW '(' expr% ')')%
option = STRAIGHT_JOIN | HIGH_PRIORITY | DISTINCT | DISTINCTROW | ALL | SQL_SMALL_RESULT | SQL_BIG_RESULT
    | SQL_BUFFER_RESULT | SQL_CALC_FOUND_ROWS | SQL_NO_CACHE
item = IDENT '.' '*' | IDENT '.' IDENT '.' '*' | expr alias?
alias = AS (IDENT | TEXT) | IDENT | TEXT
from = FROM (DUAL | joined%)
where = WHERE expr
group = GROUP BY expr% WITH_ROLLUP?
having = HAVING expr
windows = WINDOW (IDENT AS window)%
order = ORDER BY direction%
direction = expr (ASC | DESC)?
limit = LIMIT count ((',' | OFFSET) count)?
count = INT | IDENT
locking = FOR (UPDATE | SHARE) (OF table%)? (NOWAIT | SKIP LOCKED)? | LOCK IN SHARE MODE
into = (OUTFILE | DUMPFILE) TEXT any* | (VAR | IDENT)%

table = IDENT ('.' IDENT)?
joined = factor join*
join = (NATURAL (INNER? JOIN | (LEFT | RIGHT) OUTER? JOIN)) factor
    | (LEFT | RIGHT) OUTER? JOIN joined matched
    | (JOIN | INNER JOIN | CROSS JOIN | STRAIGHT_JOIN) joined matched?
matched = ON expr | USING '(' IDENT% ')'
factor = LATERAL? subquery named? ('(' IDENT% ')')? | '(' joined% ')' | '{' IDENT joined '}' | JSON_TABLE '(' any*
    | table (PARTITION '(' IDENT% ')')? named? hint*
named = AS? IDENT
hint = (USE | FORCE | IGNORE) (INDEX | KEY) (FOR (JOIN | ORDER BY | GROUP BY))? '(' ((IDENT | PRIMARY)%)? ')'

expr = denied ((OR | XOR | AND | '||' | '&&') denied)*
denied = NOT* truth (IS NOT? (TRUE | FALSE | UNKNOWN))?
truth = predicate (compare ((ALL | ANY | SOME) subquery | predicate) | IS NOT? NULL)*
compare = '=' | '<=>' | '>=' | '>' | '<=' | '<' | '<>' | '!='
predicate = bits (NOT? IN (subquery | '(' expr% ')') | NOT? BETWEEN bits AND predicate
    | NOT? LIKE simple (ESCAPE simple)? | NOT? (REGEXP | RLIKE) bits | MEMBER OF? '(' simple ')' | SOUNDS LIKE bits)?
bits = simple (('|' | '&' | '<<' | '>>' | '*' | '/' | '%' | DIV | MOD | '^') simple | ('+' | '-') (span | simple))*
span = INTERVAL expr unit
simple = ('-' | '+' | '~' | '!' | BINARY)* primary (COLLATE (IDENT | TEXT | BINARY) | ('->' | '->>') TEXT)*
primary = literal | span '+' expr | '(' expr% ')' | subquery | EXISTS subquery | ROW '(' expr ',' expr% ')'
    | '{' IDENT expr '}' | CASE expr? (WHEN expr THEN expr) (WHEN expr THEN expr)* (ELSE expr)? END
    | CAST '(' expr AS type ')' | CONVERT '(' expr (',' type | USING charset) ')'
    | MATCH ('(' column% ')' | column%) AGAINST '(' bits any*
    | (DEFAULT | VALUES) '(' column ')' | VAR (':=' expr)? | SYSVAR
    | aggregate over? | windowed over | function | PLAIN '(' ((expr alias?)%)? ')' | IDENT '.' IDENT '(' (expr%)? ')'
    | column
column = IDENT ('.' IDENT ('.' IDENT)?)?
literal = (CHARSET_OF? TEXT) TEXT* | NUM | NULL | TRUE | FALSE | (DATE | TIME | TIMESTAMP) TEXT
charset = IDENT | TEXT | BINARY
type = (BINARY | NCHAR | TIME | DATETIME) length? | (CHAR | CHARACTER) length? coded?
    | (SIGNED | UNSIGNED) (INT | INTEGER)? | DATE | YEAR | (DECIMAL | DEC) ('(' INT (',' INT)? ')')? | JSON | REAL
    | DOUBLE PRECISION? | FLOAT length?
    | POINT | LINESTRING | POLYGON | MULTIPOINT | MULTILINESTRING | MULTIPOLYGON | GEOMETRYCOLLECTION
length = '(' INT ')'
coded = (CHARSET | CHARACTER SET) charset | ASCII | UNICODE | BYTE | BINARY
unit = moment | DAY_HOUR | DAY_MICROSECOND | DAY_MINUTE | DAY_SECOND | HOUR_MICROSECOND | HOUR_MINUTE | HOUR_SECOND
    | MINUTE_MICROSECOND | MINUTE_SECOND | SECOND_MICROSECOND | YEAR_MONTH
moment = MICROSECOND | SECOND | MINUTE | HOUR | DAY | WEEK | MONTH | QUARTER | YEAR | SQL_TSI_SECOND | SQL_TSI_MINUTE
    | SQL_TSI_HOUR | SQL_TSI_DAY | SQL_TSI_WEEK | SQL_TSI_MONTH | SQL_TSI_QUARTER | SQL_TSI_YEAR

aggregate = (AVG | SUM | MIN | MAX) '(' DISTINCT? ALL? expr ')'
    | (BIT_AND | BIT_OR | BIT_XOR | STD | STDDEV | STDDEV_POP | STDDEV_SAMP | VARIANCE | VAR_POP | VAR_SAMP
        | JSON_ARRAYAGG) '(' ALL? expr ')'
    | JSON_OBJECTAGG '(' expr ',' expr ')'
    | COUNT '(' (ALL? '*' | DISTINCT expr% | ALL? expr) ')'
    | GROUP_CONCAT '(' DISTINCT? expr% order? (SEPARATOR TEXT)? ')'
windowed = (ROW_NUMBER | RANK | DENSE_RANK | CUME_DIST | PERCENT_RANK) '(' ')' | NTILE '(' whole ')'
    | (LEAD | LAG) '(' expr (',' whole (',' expr)?)? ')' nulls? | (FIRST_VALUE | LAST_VALUE) '(' expr ')' nulls?
    | NTH_VALUE '(' expr ',' whole ')' (FROM (FIRST | LAST))? nulls?
whole = INT | VAR | IDENT
nulls = (RESPECT | IGNORE) NULLS
over = OVER (IDENT | window)
window = '(' IDENT? (PARTITION BY expr%)? order? frame? ')'
frame = (ROWS | RANGE | GROUPS) (BETWEEN bound AND bound | bound) (EXCLUDE any any?)?
bound = UNBOUNDED (PRECEDING | FOLLOWING) | CURRENT ROW | (NUM | span) (PRECEDING | FOLLOWING)

function = (CURRENT_USER | CURRENT_DATE | UTC_DATE) ('(' ')')?
    | (CURRENT_TIME | CURRENT_TIMESTAMP | LOCALTIME | LOCALTIMESTAMP | UTC_TIME | UTC_TIMESTAMP) ('(' INT? ')')?
    | (CURDATE | ROW_COUNT | DATABASE | SCHEMA | USER | SESSION_USER | SYSTEM_USER) '(' ')'
    | (CURTIME | NOW | SYSDATE) '(' INT? ')' | CHAR '(' expr% (USING charset)? ')'
    | (DATE | DAY | HOUR | MINUTE | MONTH | SECOND | TIME | YEAR | MICROSECOND | QUARTER | REVERSE | ASCII | CHARSET
        | COLLATION) '(' expr ')'
    | (TIMESTAMP | WEEK) '(' expr (',' expr)? ')' | (LEFT | RIGHT | MOD | REPEAT | TRUNCATE) '(' expr ',' expr ')'
    | (IF | REPLACE) '(' expr ',' expr ',' expr ')' | FORMAT '(' expr ',' expr (',' expr)? ')'
    | INSERT '(' expr ',' expr ',' expr ',' expr ')' | INTERVAL '(' expr ',' expr% ')'
    | (COALESCE | GROUPING) '(' expr% ')' | (ADDDATE | SUBDATE) '(' expr ',' (span | expr) ')' | (DATE_ADD
    | DATE_SUB) '(' expr ',' span ')'
    | EXTRACT '(' unit FROM expr ')' | GET_FORMAT '(' (DATE | TIME | DATETIME | TIMESTAMP) ',' expr ')'
    | POSITION '(' bits IN expr ')' | (TIMESTAMPADD | TIMESTAMPDIFF) '(' moment ',' expr ',' expr ')'
    | (SUBSTRING | SUBSTR | MID) '(' expr (FROM expr (FOR expr)? | ',' expr (',' expr)?) ')'
    | TRIM '(' ((LEADING | TRAILING | BOTH) expr? FROM expr | expr (FROM expr)?) ')'
    | (JSON_VALUE | WEIGHT_STRING) '(' any*
    | (POINT | LINESTRING | POLYGON | MULTIPOINT | MULTILINESTRING | MULTIPOLYGON | GEOMETRYCOLLECTION) '(' expr% ')'

show = (DATABASES | SCHEMAS | COLLATION | CHARSET | CHARACTER SET) like?
    | EXTENDED? FULL? (TABLES inside? like? | (COLUMNS | FIELDS) (FROM | IN) table inside? like?)
    | EXTENDED? (INDEX | INDEXES | KEYS) (FROM | IN) table inside? where?
    | (TABLE STATUS | OPEN TABLES | FULL? TRIGGERS | EVENTS) inside? like?
    | (GLOBAL | SESSION | LOCAL)? (STATUS | VARIABLES) like? | (PROCEDURE | FUNCTION) STATUS like?
    | STORAGE? ENGINES | PLUGINS | PRIVILEGES | PROFILES | PROFILE any* | FULL? PROCESSLIST
    | COUNT '(' '*' ')' (WARNINGS | ERRORS) | (WARNINGS | ERRORS) limit? | GRANTS (FOR any*)?
    | CREATE ((TABLE | VIEW) table | (DATABASE | SCHEMA) (IF NOT EXISTS)? IDENT
        | (PROCEDURE | FUNCTION | TRIGGER | EVENT) table | USER any*)
    | (ENGINE | BINARY | BINLOG | MASTER | RELAYLOG | REPLICA | REPLICAS | SLAVE) any any*
like = LIKE TEXT | where
inside = (FROM | IN) IDENT
describe = ANALYZE? FORMAT '=' (IDENT | TEXT) explained | ANALYZE? explained | FOR CONNECTION INT
    | table (TEXT | IDENT)?
explained = select | INSERT insert | REPLACE insert | UPDATE update | DELETE delete

other = (INSERT | REPLACE) insert | UPDATE update | DELETE delete | USE IDENT | HELP (IDENT | TEXT)
    | CREATE TEMPORARY? TABLE (IF NOT EXISTS)? table any*
    | CREATE (OR REPLACE | UNIQUE | FULLTEXT | SPATIAL | INDEX | DATABASE | SCHEMA | VIEW | USER
        | ROLE | PROCEDURE | FUNCTION | TRIGGER | EVENT | SERVER | TABLESPACE | LOGFILE | UNDO | RESOURCE | ALGORITHM
        | DEFINER | SQL | AGGREGATE | SPATIAL) any*
    | DROP ((TEMPORARY? (TABLE | TABLES) | VIEW) (IF EXISTS)? table% (RESTRICT | CASCADE)?
        | (DATABASE | SCHEMA) (IF EXISTS)? IDENT | (INDEX | USER | ROLE | PROCEDURE | FUNCTION | TRIGGER | EVENT
        | SERVER | PREPARE | TABLESPACE | UNDO | LOGFILE | RESOURCE | SPATIAL) any*)
    | ALTER (TABLE table | DATABASE | SCHEMA | VIEW | USER | PROCEDURE | FUNCTION | EVENT | SERVER | TABLESPACE | UNDO
        | INSTANCE | RESOURCE | ALGORITHM | DEFINER | SQL) any*
    | TRUNCATE TABLE? table | RENAME (TABLE | TABLES | USER) any* | SET set% | CALL table any* | DO (expr alias?)%
    | PREPARE IDENT FROM (TEXT | VAR) | EXECUTE IDENT (USING VAR%)? | DEALLOCATE PREPARE IDENT
    | START (TRANSACTION | SLAVE | REPLICA | GROUP_REPLICATION) any* | STOP (SLAVE | REPLICA | GROUP_REPLICATION) any*
    | BEGIN WORK? | COMMIT ended | ROLLBACK (WORK? TO SAVEPOINT? IDENT | ended) | SAVEPOINT IDENT
    | RELEASE SAVEPOINT IDENT
    | LOCK (TABLE | TABLES | INSTANCE) any* | UNLOCK (TABLE | TABLES | INSTANCE) | KILL (CONNECTION | QUERY)? expr
    | (ANALYZE | CHECK | CHECKSUM | OPTIMIZE | REPAIR) (NO_WRITE_TO_BINLOG | LOCAL)? (TABLE | TABLES) table% any*
    | LOAD (DATA | XML | INDEX) any* | GRANT any any* | REVOKE any any* | HANDLER table any any*
    | GET (CURRENT | STACKED)? DIAGNOSTICS any* | (BINLOG | CACHE | CHANGE | CLONE | FLUSH | IMPORT | INSTALL | PURGE
    | RESET | RESIGNAL | SIGNAL | UNINSTALL | XA) any any*
    | RESTART | SHUTDOWN
set = (GLOBAL | SESSION | LOCAL | PERSIST | PERSIST_ONLY)? (VAR | SYSVAR | column) ('=' | ':=') (expr | DEFAULT | ON
    | ALL)
    | (GLOBAL | SESSION)? TRANSACTION any any* | (NAMES | CHARSET | CHARACTER SET) (charset | DEFAULT) any*
    | (PASSWORD | ROLE | DEFAULT | RESOURCE) any any*
ended = WORK? (AND NO? CHAIN)? (NO? RELEASE)?
insert = (LOW_PRIORITY | DELAYED | HIGH_PRIORITY)? IGNORE? INTO? table (PARTITION '(' IDENT% ')')?
    (SET assign% | ('(' (column%)? ')')? ((VALUES | VALUE) values% | select))
    (ON DUPLICATE KEY UPDATE assign%)?
values = '(' ((expr | DEFAULT)%)? ')' | ROW '(' ((expr | DEFAULT)%)? ')'
assign = column ('=' | ':=') (expr | DEFAULT)
update = LOW_PRIORITY? IGNORE? joined% SET assign% where? order? limit?
delete = (LOW_PRIORITY | QUICK | IGNORE)* (FROM several USING joined% where?
    | FROM table (AS? IDENT)? where? order? limit? | several FROM joined% where?)
several = (IDENT ('.' IDENT)? ('.' '*')?)%
"""

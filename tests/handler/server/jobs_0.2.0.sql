-- A job file that version 0.2.0 wrote, as SQLite dumps it.
PRAGMA application_id = 1818517868;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    request TEXT NOT NULL,
    keep_s REAL NOT NULL,
    created_s REAL NOT NULL,
    ends_s REAL NOT NULL,
    started_s REAL,
    finished_s REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    has_webhook INTEGER NOT NULL,
    webhook_due INTEGER NOT NULL DEFAULT 0,
    outcome TEXT
) STRICT;
INSERT INTO "jobs" VALUES(1,'completed','COMPLETED','{"input": {"prompt": "a red apple", "seed": 7}, "s3_config": null, "webhook": null, "execution_timeout_s": null, "ttl_s": 86400.0, "is_sent_as_base64": true}',10000000000.0,1764000000.0,1764086400.0,1764000000.0,1764000003.0,1,0,0,0,'{"filename": "alpha_1764000003_0a1b2c.png", "random_values": {"seed": 7}, "info": {"seed": 7, "alpha": {"mean": 0.4}, "picture": {"format": "png", "width": 128, "height": 128}}, "url": null}');
INSERT INTO "jobs" VALUES(2,'queued','IN_QUEUE','{"input": {"prompt": "a blue bird"}, "s3_config": null, "webhook": null, "execution_timeout_s": null, "ttl_s": 10000000000.0, "is_sent_as_base64": true}',10000000000.0,1764000003.0,11764000003.0,NULL,NULL,0,0,0,0,NULL);
CREATE INDEX jobs_by_status ON jobs (status, number);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',2);
COMMIT;

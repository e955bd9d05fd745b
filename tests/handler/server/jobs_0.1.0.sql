-- A job file that version 0.1.0 wrote, as SQLite dumps it: a job in each state.
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
INSERT INTO "jobs" VALUES(1,'completed','COMPLETED','{"input": {"prompt": "a red apple", "seed": 7}, "s3_config": null, "webhook": null, "execution_timeout_s": null, "ttl_s": 100000000000.0}',100000000000.0,1760000002.0,101760000002.0,1760000003.0,1760000005.0,1,0,0,0,'{"filename": "alpha_1760000003_0a1b2c.png", "drawn": {"seed": 7}, "info": {"prompt": "a red apple", "negative_prompt": "bad, ugly", "seed": 7, "steps": 20, "cfg": 5.0, "sampler_name": "dpmpp_2m_sde", "scheduler": "karras", "width": 128, "height": 128, "checkpoint": "tiny_sdxl.safetensors", "workflow": "layerdiffuse_txt2img", "profile": "tiny", "alpha": {"mean": 0.21, "transparent": 0.71, "opaque": 0.12}, "versions": {"layerdiffuse_alpha": "0.1.0", "comfyui": "0.30.0", "torch": "2.9.1"}, "seconds": {"comfyui_ready": 0.0001, "Sampler": 0.9, "total": 1.2}}, "url": null}');
INSERT INTO "jobs" VALUES(2,'failed','FAILED','{"input": {"prompt": "x"}, "s3_config": null, "webhook": "https://hook.example/", "execution_timeout_s": null, "ttl_s": 100000000000.0}',100000000000.0,1760000006.0,101760000006.0,1760000007.0,1760000009.0,1,0,1,1,'{"error": "node_failed: Sampler: out of memory"}');
INSERT INTO "jobs" VALUES(3,'died twice','IN_PROGRESS','{"input": {"prompt": "x"}, "s3_config": null, "webhook": null, "execution_timeout_s": null, "ttl_s": 100000000000.0}',100000000000.0,1760000010.0,101760000010.0,1760000014.0,NULL,2,0,0,0,NULL);
INSERT INTO "jobs" VALUES(4,'running','IN_PROGRESS','{"input": {"prompt": "x"}, "s3_config": null, "webhook": null, "execution_timeout_s": null, "ttl_s": 100000000000.0}',100000000000.0,1760000016.0,101760000016.0,1760000017.0,NULL,1,0,0,0,NULL);
INSERT INTO "jobs" VALUES(5,'queued','IN_QUEUE','{"input": {"prompt": "a blue bird"}, "s3_config": {"accessId": "a", "accessSecret": "b", "bucketName": "c-d", "endpointUrl": "https://s3.example"}, "webhook": "https://hook.example/", "execution_timeout_s": 60.0, "ttl_s": 100000000000.0}',100000000000.0,1760000019.0,101760000019.0,NULL,NULL,0,0,1,0,NULL);
INSERT INTO "jobs" VALUES(6,'cancelled','CANCELLED','{"input": {"prompt": "x"}, "s3_config": null, "webhook": null, "execution_timeout_s": null, "ttl_s": 100000000000.0}',100000000000.0,1760000020.0,101760000020.0,NULL,1760000021.0,0,0,0,0,'{"error": "cancelled: the job was cancelled"}');
CREATE INDEX jobs_by_status ON jobs (status, number);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',6);
COMMIT;
PRAGMA user_version = 1;

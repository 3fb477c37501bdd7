BEGIN TRANSACTION;
CREATE TABLE alert (
	model_name VARCHAR(120) NOT NULL, 
	alert_id VARCHAR(60) NOT NULL, 
	severity VARCHAR(20) NOT NULL, 
	first_seen VARCHAR(40) NOT NULL, 
	last_seen VARCHAR(40) NOT NULL, 
	count INTEGER NOT NULL, 
	body JSON NOT NULL, 
	PRIMARY KEY (model_name, alert_id)
);
CREATE TABLE alias (
	model_name VARCHAR(120) NOT NULL, 
	alias VARCHAR(120) NOT NULL, 
	version_id VARCHAR(200) NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (model_name, alias), 
	FOREIGN KEY(version_id) REFERENCES version (version_id)
);
INSERT INTO "alias" VALUES('ppo','production','ppo_v20231120_120130',2);
INSERT INTO "alias" VALUES('ppo','candidate','ppo_v20231120_120030',1);
CREATE TABLE artifact (
	version_id VARCHAR(200) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	encoding VARCHAR(20) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (version_id, kind, name), 
	FOREIGN KEY(version_id) REFERENCES version (version_id), 
	FOREIGN KEY(digest) REFERENCES blob (digest)
);
INSERT INTO "artifact" VALUES('ppo_v20231120_120000','model','weights.safetensors','safetensors','7a2e6ec8e9b1ec5285cc57bd3cc5014cc2dc7cf5fdbd161246065a8189c31558');
INSERT INTO "artifact" VALUES('ppo_v20231120_120000','model','module.pt','module','a5ab45ac627570112f1f560c784a380f400306dd9f790fc15fee52b5a6f752df');
INSERT INTO "artifact" VALUES('ppo_v20231120_120030','model','weights.safetensors','safetensors','3c5290c72d503229ea1f1cec699789300ddb6314bb0106f33a91cbee90b148fe');
INSERT INTO "artifact" VALUES('ppo_v20231120_120030','model','module.pt','module','afa21dfdd062b61757f0eb12c7b8eb01b0e01868ab0f5c825cf970728b5c9184');
INSERT INTO "artifact" VALUES('ppo_v20231120_120030','artifact','scaler','json','b65389e93451bbc5f0470cf508892a44137860e1e2b635f12baceb02987daafd');
INSERT INTO "artifact" VALUES('ppo_v20231120_120030','artifact','example_input','safetensors','508e103a4650e8b3f5922570bc5f1e6d21e30b868ac96ae17486632df4c15167');
INSERT INTO "artifact" VALUES('ppo_v20231120_120130','model','weights.safetensors','safetensors','e5ab05d2433ca37aabc27d0eb0ffdfb51584b38bda170e37128a69043b128ff0');
INSERT INTO "artifact" VALUES('ppo_v20231120_120130','model','module.pt','module','c7e1e7be179c687f6697475e918bd1b1a42a52bf84838da837930219df9eb9f6');
INSERT INTO "artifact" VALUES('ppo_v20231120_120130_2','model','weights.safetensors','safetensors','59fb45ae62d628f3a27cd2aac8ae711c4283c9bf43cc82b1d427aedbd1e3620a');
INSERT INTO "artifact" VALUES('ppo_v20231120_120130_2','model','module.pt','module','c7e1e7be179c687f6697475e918bd1b1a42a52bf84838da837930219df9eb9f6');
INSERT INTO "artifact" VALUES('ppo_v20231120_120130','attachment','baseline','json','e5c115965f9ba380dd6eda83bdf386bfb5ec6a6fe0304dc823e8387f95b9e34a');
INSERT INTO "artifact" VALUES('ts2vec_v20231122_130130','model','weights.safetensors','safetensors','1b2f0f10864fb6f44b26a16f4a2be8531409c4a56131480ba43ab66d9dcadc88');
INSERT INTO "artifact" VALUES('ts2vec_v20231122_130130','model','module.pt','module','422923ebd7a55555a3efc228e6088385bdad1d468aa289f3299dee08b3561e50');
CREATE TABLE audit (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at VARCHAR(40) NOT NULL, 
	model_name VARCHAR(120) NOT NULL, 
	version_id VARCHAR(200), 
	action VARCHAR(40) NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	detail JSON NOT NULL
);
INSERT INTO "audit" VALUES(1,'2023-11-20T12:00:00+00:00','ppo','ppo_v20231120_120000','save','ada','{"sha256": "cc81b9edd64ec34d0fc09751b1d1f899e186a46e390d1afc3dceac0134ac373c"}');
INSERT INTO "audit" VALUES(2,'2023-11-20T12:00:30+00:00','ppo','ppo_v20231120_120030','save','ada','{"sha256": "7a2445d3c8ea9b17a35a64d26fbe2e7e0a20a609c5e43a3373cf32eef25ee1bf"}');
INSERT INTO "audit" VALUES(3,'2023-11-20T12:01:30+00:00','ppo','ppo_v20231120_120130','save','ada','{"sha256": "005248284cdd2718cb5bc2da679d2c4898026eb6c3dc4bd653e4ce918322dcbb"}');
INSERT INTO "audit" VALUES(4,'2023-11-20T12:01:30+00:00','ppo','ppo_v20231120_120130_2','save','ada','{"sha256": "70673d0b7c3bda2388fec4be55c569d2c511425150dc9ed7c432246e082a7d4c"}');
INSERT INTO "audit" VALUES(5,'2023-11-20T12:01:30+00:00','ppo','ppo_v20231120_120030','set_alias','ada','{"alias": "production", "previous_version_id": null}');
INSERT INTO "audit" VALUES(6,'2023-11-20T13:01:30+00:00','ppo','ppo_v20231120_120130','set_alias','ada','{"alias": "production", "previous_version_id": "ppo_v20231120_120030"}');
INSERT INTO "audit" VALUES(7,'2023-11-20T13:01:30+00:00','ppo','ppo_v20231120_120030','set_alias','ada','{"alias": "candidate", "previous_version_id": null}');
INSERT INTO "audit" VALUES(8,'2023-11-20T13:01:30+00:00','ppo','ppo_v20231120_120130','attach','ada','{"name": "baseline", "sha256": "661c74baf8dc261a7501924a7a7da1b1553af4de08d02944209a1ff7a16367b5"}');
INSERT INTO "audit" VALUES(9,'2023-11-20T13:01:30+00:00','ppo','ppo_v20231120_120130','tag','ada','{"tag": "good"}');
INSERT INTO "audit" VALUES(10,'2023-11-20T13:01:30+00:00','ppo','ppo_v20231120_120130','untag','ada','{"tag": "v2"}');
INSERT INTO "audit" VALUES(11,'2023-11-22T13:01:30+00:00','ts2vec','ts2vec_v20231122_130130','save','ada','{"sha256": "a34935d47749264fd4882e78ca138b328c1865b52733019cd1b6ea280c5bd246"}');
INSERT INTO "audit" VALUES(12,'2023-11-22T13:01:30+00:00','ppo','ppo_v20231120_120000','remove','ada','{}');
CREATE TABLE blob (
	digest VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	condemned_at VARCHAR(40), 
	PRIMARY KEY (digest)
);
INSERT INTO "blob" VALUES('7a2e6ec8e9b1ec5285cc57bd3cc5014cc2dc7cf5fdbd161246065a8189c31558','cc81b9edd64ec34d0fc09751b1d1f899e186a46e390d1afc3dceac0134ac373c',152,NULL);
INSERT INTO "blob" VALUES('a5ab45ac627570112f1f560c784a380f400306dd9f790fc15fee52b5a6f752df','0fc39caaa581b068ba4733d850dfec54bfc595e0d1b738eb32d51a5d79f14162',2093,NULL);
INSERT INTO "blob" VALUES('3c5290c72d503229ea1f1cec699789300ddb6314bb0106f33a91cbee90b148fe','7a2445d3c8ea9b17a35a64d26fbe2e7e0a20a609c5e43a3373cf32eef25ee1bf',368,NULL);
INSERT INTO "blob" VALUES('afa21dfdd062b61757f0eb12c7b8eb01b0e01868ab0f5c825cf970728b5c9184','bccb186ffc8202f57e53ca3b5b92af48a9f466725754f48f721a8f4224753a36',2733,NULL);
INSERT INTO "blob" VALUES('b65389e93451bbc5f0470cf508892a44137860e1e2b635f12baceb02987daafd','bece7992a8d879f63bbcd1acfff989c4a5b53b9354c09f5e1dd5556b28a30bb8',19,NULL);
INSERT INTO "blob" VALUES('508e103a4650e8b3f5922570bc5f1e6d21e30b868ac96ae17486632df4c15167','b38d3f94c5d3e72e8f53cc5e1361c8237648ba469f8023118b0d970542cf50a4',128,NULL);
INSERT INTO "blob" VALUES('e5ab05d2433ca37aabc27d0eb0ffdfb51584b38bda170e37128a69043b128ff0','005248284cdd2718cb5bc2da679d2c4898026eb6c3dc4bd653e4ce918322dcbb',160,NULL);
INSERT INTO "blob" VALUES('c7e1e7be179c687f6697475e918bd1b1a42a52bf84838da837930219df9eb9f6','bc6a55b286b76e94f2fa40c07f89b2bac8e07567a98f4c8472a2d103ead86f05',2093,NULL);
INSERT INTO "blob" VALUES('59fb45ae62d628f3a27cd2aac8ae711c4283c9bf43cc82b1d427aedbd1e3620a','70673d0b7c3bda2388fec4be55c569d2c511425150dc9ed7c432246e082a7d4c',160,NULL);
INSERT INTO "blob" VALUES('e5c115965f9ba380dd6eda83bdf386bfb5ec6a6fe0304dc823e8387f95b9e34a','661c74baf8dc261a7501924a7a7da1b1553af4de08d02944209a1ff7a16367b5',13,NULL);
INSERT INTO "blob" VALUES('1b2f0f10864fb6f44b26a16f4a2be8531409c4a56131480ba43ab66d9dcadc88','a34935d47749264fd4882e78ca138b328c1865b52733019cd1b6ea280c5bd246',140,NULL);
INSERT INTO "blob" VALUES('422923ebd7a55555a3efc228e6088385bdad1d468aa289f3299dee08b3561e50','71c78b6547b732aeafbb96c7347b14f6e005239113c971deb2e2065868a2812a',2093,NULL);
CREATE TABLE experiment (
	test_name VARCHAR(120) NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	settings JSON NOT NULL, 
	slots JSON NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (test_name)
);
INSERT INTO "experiment" VALUES('v1test','running','{"variants": ["a", "b"], "primary_metric": "sharpe", "paired": false, "assignment": "user"}','{"salt": "", "epochs": [{"weights": {"a": 0.5, "b": 0.5}, "since": "2023-11-22T13:01:30+00:00"}], "runs": [["a", 5000], ["b", 5000]]}','2023-11-22T13:01:30+00:00');
CREATE TABLE experiment_result (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	test_name VARCHAR(120) NOT NULL, 
	at VARCHAR(40) NOT NULL, 
	variant VARCHAR(120) NOT NULL, 
	weight_epoch INTEGER NOT NULL, 
	unit VARCHAR(200), 
	request_id VARCHAR(200), 
	metrics JSON NOT NULL, 
	CONSTRAINT result_once UNIQUE (test_name, request_id, variant), 
	FOREIGN KEY(test_name) REFERENCES experiment (test_name)
);
INSERT INTO "experiment_result" VALUES(1,'v1test','2023-11-22T13:01:30+00:00','a',0,NULL,NULL,'{"sharpe": 1.0}');
CREATE TABLE lease (
	name VARCHAR(200) NOT NULL, 
	holder VARCHAR(200) NOT NULL, 
	expires_at_s FLOAT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE lineage (
	version_id VARCHAR(200) NOT NULL, 
	parent_id VARCHAR(200) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	PRIMARY KEY (version_id, parent_id), 
	FOREIGN KEY(version_id) REFERENCES version (version_id), 
	FOREIGN KEY(parent_id) REFERENCES version (version_id)
);
INSERT INTO "lineage" VALUES('ppo_v20231120_120130','ppo_v20231120_120030','distilled');
CREATE TABLE metric (
	version_id VARCHAR(200) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	value FLOAT, 
	PRIMARY KEY (version_id, name), 
	FOREIGN KEY(version_id) REFERENCES version (version_id)
);
INSERT INTO "metric" VALUES('ppo_v20231120_120000','sharpe',0.1);
INSERT INTO "metric" VALUES('ppo_v20231120_120030','sharpe',1.0);
INSERT INTO "metric" VALUES('ppo_v20231120_120030','bad',NULL);
INSERT INTO "metric" VALUES('ppo_v20231120_120130','sharpe',1.5);
INSERT INTO "metric" VALUES('ppo_v20231120_120130_2','sharpe',0.5);
INSERT INTO "metric" VALUES('ts2vec_v20231122_130130','loss',0.1);
CREATE TABLE monitor_window (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	model_name VARCHAR(120) NOT NULL, 
	ended_at VARCHAR(40) NOT NULL, 
	summary JSON NOT NULL
);
CREATE TABLE rollout (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	rollout_id VARCHAR(60) NOT NULL, 
	model_name VARCHAR(120) NOT NULL, 
	old_version_id VARCHAR(200), 
	new_version_id VARCHAR(200) NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	state JSON NOT NULL, 
	revision INTEGER NOT NULL, 
	UNIQUE (rollout_id)
);
CREATE TABLE rollout_event (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	rollout_id VARCHAR(60) NOT NULL, 
	model_name VARCHAR(120) NOT NULL, 
	at VARCHAR(40) NOT NULL, 
	action VARCHAR(40) NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	detail JSON NOT NULL
);
CREATE TABLE schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema" VALUES(1);
CREATE TABLE snapshot (
	kind VARCHAR(40) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	state JSON NOT NULL, 
	saved_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (kind, name)
);
INSERT INTO "snapshot" VALUES('bandit','x','{"n": 1}','2023-11-22T13:01:30+00:00');
CREATE TABLE tag (
	version_id VARCHAR(200) NOT NULL, 
	tag VARCHAR(120) NOT NULL, 
	PRIMARY KEY (version_id, tag), 
	FOREIGN KEY(version_id) REFERENCES version (version_id)
);
INSERT INTO "tag" VALUES('ppo_v20231120_120030','milestone');
INSERT INTO "tag" VALUES('ppo_v20231120_120130','good');
CREATE TABLE version (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	version_id VARCHAR(200) NOT NULL, 
	model_name VARCHAR(120) NOT NULL, 
	timestamp VARCHAR(15) NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	config JSON NOT NULL, 
	description TEXT NOT NULL, 
	path TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	format VARCHAR(40) NOT NULL, 
	can_load_full BOOLEAN NOT NULL, 
	cannot_load_full_reason TEXT, 
	class_name TEXT NOT NULL, 
	signature JSON, 
	environment JSON NOT NULL, 
	non_finite_metrics JSON NOT NULL, 
	removed_at VARCHAR(40), 
	UNIQUE (version_id)
);
INSERT INTO "version" VALUES(1,'ppo_v20231120_120000','ppo','20231120_120000','2023-11-20T12:00:00+00:00','{}','','v1reg/ppo/ppo_v20231120_120000','cc81b9edd64ec34d0fc09751b1d1f899e186a46e390d1afc3dceac0134ac373c',152,'modelyard-1',1,NULL,'torch.nn.modules.linear.Linear','null','{"python": "3.11.7", "packages": {"modelyard": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0", "safetensors": "0.8.0"}, "platform": "Linux-6.18.44-fc-v669-x86_64-with-glibc2.36", "machine": "x86_64", "n_cpus": 2, "git_commit": null, "git_dirty": false}','[]','2023-11-22T13:01:30+00:00');
INSERT INTO "version" VALUES(2,'ppo_v20231120_120030','ppo','20231120_120030','2023-11-20T12:00:30+00:00','{"hidden_dim": 4}','first','v1reg/ppo/ppo_v20231120_120030','7a2445d3c8ea9b17a35a64d26fbe2e7e0a20a609c5e43a3373cf32eef25ee1bf',368,'modelyard-1',1,NULL,'torch.nn.modules.container.Sequential','{"inputs": [{"name": "input", "shape": [null, 3], "dtype": "float32"}]}','{"python": "3.11.7", "packages": {"modelyard": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0", "safetensors": "0.8.0"}, "platform": "Linux-6.18.44-fc-v669-x86_64-with-glibc2.36", "machine": "x86_64", "n_cpus": 2, "git_commit": null, "git_dirty": false}','["bad"]',NULL);
INSERT INTO "version" VALUES(3,'ppo_v20231120_120130','ppo','20231120_120130','2023-11-20T12:01:30+00:00','{}','','v1reg/ppo/ppo_v20231120_120130','005248284cdd2718cb5bc2da679d2c4898026eb6c3dc4bd653e4ce918322dcbb',160,'modelyard-1',1,NULL,'torch.nn.modules.linear.Linear','null','{"python": "3.11.7", "packages": {"modelyard": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0", "safetensors": "0.8.0"}, "platform": "Linux-6.18.44-fc-v669-x86_64-with-glibc2.36", "machine": "x86_64", "n_cpus": 2, "git_commit": null, "git_dirty": false}','[]',NULL);
INSERT INTO "version" VALUES(4,'ppo_v20231120_120130_2','ppo','20231120_120130','2023-11-20T12:01:30+00:00','{}','','v1reg/ppo/ppo_v20231120_120130_2','70673d0b7c3bda2388fec4be55c569d2c511425150dc9ed7c432246e082a7d4c',160,'modelyard-1',1,NULL,'torch.nn.modules.linear.Linear','null','{"python": "3.11.7", "packages": {"modelyard": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0", "safetensors": "0.8.0"}, "platform": "Linux-6.18.44-fc-v669-x86_64-with-glibc2.36", "machine": "x86_64", "n_cpus": 2, "git_commit": null, "git_dirty": false}','[]',NULL);
INSERT INTO "version" VALUES(5,'ts2vec_v20231122_130130','ts2vec','20231122_130130','2023-11-22T13:01:30+00:00','{}','','v1reg/ts2vec/ts2vec_v20231122_130130','a34935d47749264fd4882e78ca138b328c1865b52733019cd1b6ea280c5bd246',140,'modelyard-1',1,NULL,'torch.nn.modules.linear.Linear','null','{"python": "3.11.7", "packages": {"modelyard": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0", "safetensors": "0.8.0"}, "platform": "Linux-6.18.44-fc-v669-x86_64-with-glibc2.36", "machine": "x86_64", "n_cpus": 2, "git_commit": null, "git_dirty": false}','[]',NULL);
CREATE INDEX version_by_model ON version (model_name, seq);
CREATE INDEX audit_by_model ON audit (model_name, seq);
CREATE INDEX rollout_by_model ON rollout (model_name, seq);
CREATE INDEX rollout_event_by_model ON rollout_event (model_name, seq);
CREATE INDEX monitor_window_by_model ON monitor_window (model_name, seq);
CREATE INDEX artifact_by_digest ON artifact (digest);
CREATE INDEX metric_by_value ON metric (name, value);
CREATE INDEX lineage_by_parent ON lineage (parent_id);
CREATE INDEX result_by_test ON experiment_result (test_name, seq);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('version',5);
INSERT INTO "sqlite_sequence" VALUES('audit',12);
INSERT INTO "sqlite_sequence" VALUES('experiment_result',1);
COMMIT;

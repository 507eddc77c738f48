-- A database as schema 0005 left it: one run with two measurements, a tag, the process that measured it, their calls,
-- answers and examples. Nothing was put under load.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE block (
	id INTEGER NOT NULL, 
	measurement_id INTEGER NOT NULL, 
	process INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	started_s DOUBLE NOT NULL, 
	samples INTEGER NOT NULL, 
	tokens INTEGER NOT NULL, 
	padded_tokens INTEGER NOT NULL, 
	latencies_s BLOB NOT NULL, 
	CONSTRAINT pk_block PRIMARY KEY (id), 
	CONSTRAINT fk_block_measurement_id_measurement FOREIGN KEY(measurement_id) REFERENCES measurement (id) ON DELETE CASCADE
);
INSERT INTO "block" VALUES(1,1,0,0,'timed',0.5,8,100,1024,X'FA7E6ABC7493883F9A9999999999893F');
INSERT INTO "block" VALUES(2,2,0,0,'timed',0.5,8,100,1024,X'FA7E6ABC7493883F9A9999999999893F');
CREATE TABLE example (
	set_id VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	source_index INTEGER NOT NULL, 
	text_sha256 VARCHAR(64) NOT NULL, 
	text TEXT NOT NULL, 
	label INTEGER, 
	CONSTRAINT pk_example PRIMARY KEY (set_id, position), 
	CONSTRAINT fk_example_set_id_example_set FOREIGN KEY(set_id) REFERENCES example_set (id) ON DELETE CASCADE
);
INSERT INTO "example" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,4,'95ebc1c1237c5f2308671550d6bea45178a86752b890a68947349dc42cc29ba7','Rain in the north.',0);
INSERT INTO "example" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1,2,'b2eb60bb10527d22423bc94346844671bd09b344e31e3df52dc4394fac9799e0','A late goal, 2–1.',1);
CREATE TABLE example_set (
	id VARCHAR(64) NOT NULL, 
	dataset TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	label_names JSON, 
	CONSTRAINT pk_example_set PRIMARY KEY (id)
);
INSERT INTO "example_set" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','news.csv',2,'["World", "Sports"]');
CREATE TABLE measurement (
	id INTEGER NOT NULL, 
	run_id VARCHAR(26) NOT NULL, 
	position INTEGER NOT NULL, 
	variant VARCHAR(64) NOT NULL, 
	title TEXT NOT NULL, 
	model TEXT NOT NULL, 
	backend VARCHAR(32) NOT NULL, 
	precision VARCHAR(16) NOT NULL, 
	options JSON NOT NULL, 
	device VARCHAR(32) NOT NULL, 
	baseline BOOLEAN NOT NULL, 
	published TEXT, 
	batch_size INTEGER NOT NULL, 
	padding VARCHAR(16) NOT NULL, 
	"order" VARCHAR(16) NOT NULL, 
	max_length INTEGER NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	status_reason TEXT, 
	validity VARCHAR(16), 
	validity_reason TEXT, 
	comparison VARCHAR(16), 
	schedule VARCHAR(16), 
	latency_mean_s DOUBLE, 
	latency_p50_s DOUBLE, 
	latency_p95_s DOUBLE, 
	latency_p99_s DOUBLE, 
	device_p50_s DOUBLE, 
	tokenize_p50_s DOUBLE, 
	calls INTEGER, 
	throughput_samples_per_s DOUBLE, 
	throughput_tokens_per_s DOUBLE, 
	throughput_padded_tokens_per_s DOUBLE, 
	speedup DOUBLE, 
	speedup_low DOUBLE, 
	speedup_high DOUBLE, 
	vram_peak_bytes BIGINT, 
	vram_source TEXT, 
	ram_peak_bytes BIGINT, 
	ram_source TEXT, 
	weights_bytes BIGINT, 
	parameters BIGINT, 
	memory JSON, 
	load_s DOUBLE, 
	examples INTEGER, 
	correct INTEGER, 
	accuracy DOUBLE, 
	accuracy_low DOUBLE, 
	accuracy_high DOUBLE, 
	accuracy_reason TEXT, 
	index_match_rate DOUBLE, 
	macro_f1 DOUBLE, 
	agreement DOUBLE, 
	flips INTEGER, 
	truncated INTEGER, 
	labels JSON, 
	audit JSON, latency_p50_low_s DOUBLE, latency_p50_high_s DOUBLE, throughput_samples_per_s_low DOUBLE, throughput_samples_per_s_high DOUBLE, energy_j_per_1000_examples DOUBLE, energy JSON, limit_share DOUBLE, binds VARCHAR(16), limits JSON, conditions JSON, accuracy_difference DOUBLE, accuracy_difference_low DOUBLE, accuracy_difference_high DOUBLE, accuracy_gained INTEGER, accuracy_lost INTEGER, accuracy_p DOUBLE, accuracy_comparison VARCHAR(16), detectable_difference DOUBLE, nll DOUBLE, ece DOUBLE, quality JSON, batch_flip_rate DOUBLE, invariance JSON, 
	CONSTRAINT pk_measurement PRIMARY KEY (id), 
	CONSTRAINT fk_measurement_run_id_run FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE, 
	CONSTRAINT uq_measurement_run_id UNIQUE (run_id, variant, batch_size)
);
INSERT INTO "measurement" VALUES(1,'01HZZZZZZZZZZZZZZZZZZZZZZZ',0,'fp32','FP32','some/model','pytorch','fp32','{}','cpu',1,NULL,8,'max_length','given',128,'measured',NULL,NULL,NULL,NULL,NULL,NULL,0.0123,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2,NULL,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"wrong": [], "deviations": [], "settings": {"threads": 2}}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "measurement" VALUES(2,'01HZZZZZZZZZZZZZZZZZZZZZZZ',1,'int8','INT8','some/model','pytorch','fp32','{}','cpu',0,NULL,8,'max_length','given',128,'measured',NULL,NULL,NULL,NULL,NULL,NULL,0.0246,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2,NULL,0.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"wrong": [], "deviations": [], "settings": {"threads": 2}}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE prediction (
	measurement_id INTEGER NOT NULL, 
	rows INTEGER NOT NULL, 
	columns INTEGER NOT NULL, 
	model_labels JSON NOT NULL, 
	logits BLOB NOT NULL, 
	CONSTRAINT pk_prediction PRIMARY KEY (measurement_id), 
	CONSTRAINT fk_prediction_measurement_id_measurement FOREIGN KEY(measurement_id) REFERENCES measurement (id) ON DELETE CASCADE
);
INSERT INTO "prediction" VALUES(1,2,2,'["World", "Sports"]',X'0000C03F000080BF000080BE00000040');
INSERT INTO "prediction" VALUES(2,2,2,'["World", "Sports"]',X'0000C03F000080BF000080BE00000040');
CREATE TABLE published (
	id INTEGER NOT NULL, 
	study VARCHAR(64) NOT NULL, 
	title VARCHAR(200) NOT NULL, 
	baseline BOOLEAN NOT NULL, 
	device_name TEXT NOT NULL, 
	batch_size INTEGER NOT NULL, 
	latency_s DOUBLE, 
	throughput_padded_tokens_per_s DOUBLE, 
	vram_bytes BIGINT, 
	accuracy DOUBLE, 
	examples INTEGER, 
	accuracy_meaningful BOOLEAN NOT NULL, 
	remark TEXT, 
	source TEXT NOT NULL, 
	CONSTRAINT pk_published PRIMARY KEY (id), 
	CONSTRAINT uq_published_study UNIQUE (study, title)
);
INSERT INTO "published" VALUES(1,'study','DistilBERT FP32',1,'NVIDIA A100 40 GB',8,0.044,23135.0,1690000000,0.325,80,0,'AG News, batches of 8 x 128 tokens, with no warm-up or spread reported. The study calls its throughput samples/s; latency times throughput is about 1,024 = 8 x 128 in every row, so it counts padded tokens. Its accuracies are chance: a model with two labels (negative, positive) was compared by index with a data set of four. VRAM is given in GB, read here as 10^9 bytes.','Saad Ahmad, "LLM Inference Optimization - A Case Study Using DistilBERT"');
INSERT INTO "published" VALUES(2,'study','DistilBERT 4-bit',0,'NVIDIA A100 40 GB',8,0.055,18545.0,1040000000,0.35,80,0,'AG News, batches of 8 x 128 tokens, with no warm-up or spread reported. The study calls its throughput samples/s; latency times throughput is about 1,024 = 8 x 128 in every row, so it counts padded tokens. Its accuracies are chance: a model with two labels (negative, positive) was compared by index with a data set of four. VRAM is given in GB, read here as 10^9 bytes.','Saad Ahmad, "LLM Inference Optimization - A Case Study Using DistilBERT"');
INSERT INTO "published" VALUES(3,'study','TinyBERT',0,'NVIDIA A100 40 GB',8,0.0048,215234.0,1690000000,0.213,80,0,'AG News, batches of 8 x 128 tokens, with no warm-up or spread reported. The study calls its throughput samples/s; latency times throughput is about 1,024 = 8 x 128 in every row, so it counts padded tokens. Its accuracies are chance: a model with two labels (negative, positive) was compared by index with a data set of four. VRAM is given in GB, read here as 10^9 bytes. The same VRAM as a model four times as large: most likely both were measured in one process.','Saad Ahmad, "LLM Inference Optimization - A Case Study Using DistilBERT"');
INSERT INTO "published" VALUES(4,'study','ONNX FP32',0,'NVIDIA A100 40 GB',8,0.018,56412.0,2270000000,0.25,80,0,'AG News, batches of 8 x 128 tokens, with no warm-up or spread reported. The study calls its throughput samples/s; latency times throughput is about 1,024 = 8 x 128 in every row, so it counts padded tokens. Its accuracies are chance: a model with two labels (negative, positive) was compared by index with a data set of four. VRAM is given in GB, read here as 10^9 bytes. The same function as the baseline: another accuracy most likely means other examples.','Saad Ahmad, "LLM Inference Optimization - A Case Study Using DistilBERT"');
INSERT INTO "published" VALUES(5,'study','ONNX INT8',0,'NVIDIA A100 40 GB',8,0.089,11535.0,1180000000,0.188,80,0,'AG News, batches of 8 x 128 tokens, with no warm-up or spread reported. The study calls its throughput samples/s; latency times throughput is about 1,024 = 8 x 128 in every row, so it counts padded tokens. Its accuracies are chance: a model with two labels (negative, positive) was compared by index with a data set of four. VRAM is given in GB, read here as 10^9 bytes. Dynamic INT8 operators have no CUDA kernels: most likely they ran on the CPU.','Saad Ahmad, "LLM Inference Optimization - A Case Study Using DistilBERT"');
CREATE TABLE run (
	id VARCHAR(26) NOT NULL, 
	suite_name VARCHAR(64) NOT NULL, 
	suite JSON NOT NULL, 
	suite_path TEXT, 
	device VARCHAR(32) NOT NULL, 
	device_name TEXT NOT NULL, 
	host TEXT NOT NULL, 
	environment JSON NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	status_reason TEXT, 
	progress JSON, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	heartbeat_at DATETIME, 
	pid INTEGER, 
	cancel_requested BOOLEAN NOT NULL, 
	log_path TEXT, 
	notes TEXT, 
	example_set_id VARCHAR(64), ceilings JSON, imported_at DATETIME, process TEXT, queued_at DATETIME, 
	CONSTRAINT pk_run PRIMARY KEY (id), 
	CONSTRAINT fk_run_example_set_id_example_set FOREIGN KEY(example_set_id) REFERENCES example_set (id)
);
INSERT INTO "run" VALUES('01HZZZZZZZZZZZZZZZZZZZZZZZ','demo','{"name": "demo", "baseline": "fp32"}',NULL,'cpu','a processor','here','{"torch": "2.13"}','finished',NULL,NULL,'2026-11-24 12:00:00.000000','2026-11-24 12:00:00.000000','2026-11-24 12:00:00.000000',NULL,4711,0,NULL,'kept','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',NULL,NULL,'boot/namespace/12345','2026-11-24 11:59:00.000000');
CREATE TABLE run_tag (
	run_id VARCHAR(26) NOT NULL, 
	tag VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_run_tag PRIMARY KEY (run_id, tag), 
	CONSTRAINT fk_run_tag_run_id_run FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
INSERT INTO "run_tag" VALUES('01HZZZZZZZZZZZZZZZZZZZZZZZ','kept');
CREATE TABLE scenario (
	id INTEGER NOT NULL, 
	run_id VARCHAR(26) NOT NULL, 
	variant VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	status_reason TEXT, 
	validity VARCHAR(16), 
	validity_reason TEXT, 
	measured_at DATETIME NOT NULL, 
	p99_limit_s DOUBLE NOT NULL, 
	max_batch INTEGER NOT NULL, 
	max_wait_s DOUBLE NOT NULL, 
	padding VARCHAR(16) NOT NULL, 
	single_texts INTEGER, 
	single_p90_s DOUBLE, 
	offline_texts_per_s DOUBLE, 
	server_texts_per_s DOUBLE, 
	trials JSON NOT NULL, 
	conditions JSON, 
	CONSTRAINT pk_scenario PRIMARY KEY (id), 
	CONSTRAINT fk_scenario_run_id_run FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE, 
	CONSTRAINT uq_scenario_run_id UNIQUE (run_id, variant)
);
CREATE INDEX ix_run_status ON run (status);
CREATE INDEX ix_run_suite_name ON run (suite_name);
CREATE INDEX ix_measurement_run_id_position ON measurement (run_id, position);
CREATE INDEX ix_block_measurement_id ON block (measurement_id);
CREATE INDEX ix_run_tag_tag ON run_tag (tag);
CREATE INDEX ix_run_created_at_id ON run (created_at, id);
CREATE INDEX ix_measurement_run_id_status ON measurement (run_id, status);
COMMIT;

BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE hpo_leases (
	trial_id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	owner TEXT, 
	process TEXT, 
	host TEXT, 
	device TEXT, 
	token INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	expires DOUBLE NOT NULL, 
	renewed DOUBLE NOT NULL, 
	checkpoint TEXT, 
	epoch INTEGER NOT NULL, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id) ON DELETE CASCADE
);
INSERT INTO "hpo_leases" VALUES(1,1,NULL,NULL,'vm','cpu',1,1,0.0,1.79611574657699608805e+09,NULL,2);
INSERT INTO "hpo_leases" VALUES(2,1,NULL,NULL,'vm','cpu',1,1,0.0,1.79611574671600151059e+09,NULL,1);
INSERT INTO "hpo_leases" VALUES(3,1,NULL,NULL,'vm','cpu',1,1,0.0,1.79611574679900264737e+09,NULL,0);
INSERT INTO "hpo_leases" VALUES(4,1,NULL,NULL,'vm','cpu',1,0,0.0,1.79611574701501417157e+09,'1',1);
INSERT INTO "hpo_leases" VALUES(5,1,'vm/15431','35f5e654-20bd-4395-9adf-9330326939c8/pid:[4026531836]/15431/435399','vm','cpu',1,0,1.7961158069709992408e+09,1.79611574697099924085e+09,'1',1);
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'study');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["accuracy"]');
INSERT INTO "study_system_attributes" VALUES(2,1,'hpo:file','"text"');
INSERT INTO "study_system_attributes" VALUES(3,1,'hpo:definition','"{\"name\":\"study\",\"train\":{\"dataset\":\"digits\",\"image_size\":224,\"limit\":null,\"valid_fraction\":0.1,\"split_seed\":0,\"corrupt\":\"refuse\",\"resize\":\"crop\",\"transparency\":\"white\",\"max_pixels\":179000000,\"cache\":\"auto\",\"selection\":\"valid\",\"metric\":\"accuracy\",\"augmentation\":\"none\",\"auto_augment\":\"none\",\"random_erasing\":0.0,\"mixup_alpha\":0.0,\"cutmix_alpha\":0.0,\"precision\":\"auto\",\"memory_format\":\"auto\",\"compile\":false,\"cuda_graphs\":false,\"model\":\"resnet18\",\"weights\":\"imagenet\",\"preprocessing\":\"weights\",\"tune\":\"all\",\"dropout\":null,\"drop_path\":0.0,\"loss\":\"cross_entropy\",\"label_smoothing\":0.0,\"focal_gamma\":2.0,\"class_weights\":\"none\",\"sampling\":\"shuffle\",\"optimizer\":\"sgd\",\"lr\":0.001,\"momentum\":0.9,\"nesterov\":false,\"weight_decay\":0.0,\"decay_norms\":true,\"layer_decay\":1.0,\"head_lr_multiplier\":1.0,\"freeze_epochs\":0,\"batch_size\":16,\"accumulate_steps\":1,\"clip_grad_norm\":null,\"ema_decay\":null,\"schedule\":\"step\",\"step_size\":5,\"gamma\":0.1,\"warmup_epochs\":0,\"min_lr\":0.0,\"epochs\":3,\"early_stopping\":null,\"seed\":0},\"space\":[{\"name\":\"lr\",\"kind\":\"float\",\"values\":{\"low\":0.0001,\"high\":1.0,\"log\":true,\"step\":null,\"when\":{}}}],\"search\":{\"trials\":6,\"replicates\":1,\"epochs\":null,\"device_hours\":null,\"deadline\":null,\"target\":null,\"direction\":\"maximize\",\"metric_name\":\"accuracy\",\"strategy\":\"auto\",\"sampler\":{\"name\":\"tpe\",\"seed\":0},\"pruner\":{\"name\":\"none\",\"min_epochs\":2,\"reduction_factor\":4,\"startup_trials\":5,\"percentile\":25.0,\"patience\":5},\"objectives\":[],\"prune_points\":false,\"chance_epochs\":3,\"max_attempts\":10,\"keep_weights\":null,\"start_from\":[],\"track\":\"none\"},\"points\":[],\"enqueued\":[],\"left_out_trials\":0,\"finishes\":null}"');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'folder','"study-adc3bead"');
INSERT INTO "study_user_attributes" VALUES(2,1,'selection','"valid"');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,0.25,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,0.5,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,2,1,0.1,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,4,1,0.3,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,5,1,0.4,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'hpo:plan','"search 1"');
INSERT INTO "trial_system_attributes" VALUES(2,2,'hpo:plan','"search 2"');
INSERT INTO "trial_system_attributes" VALUES(3,3,'hpo:plan','"search 3"');
INSERT INTO "trial_system_attributes" VALUES(4,4,'hpo:plan','"search 4"');
INSERT INTO "trial_system_attributes" VALUES(5,5,'hpo:plan','"search 5"');
INSERT INTO "trial_system_attributes" VALUES(6,6,'hpo:plan','"search 6"');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(2,1,'epoch_seconds','[2.0, 2.5]');
INSERT INTO "trial_user_attributes" VALUES(3,1,'wall_time_seconds','4.5');
INSERT INTO "trial_user_attributes" VALUES(4,2,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(5,2,'pruned','"by median at epoch 1"');
INSERT INTO "trial_user_attributes" VALUES(6,3,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(7,3,'failure','{"class": "ValueError", "message": "no luck"}');
INSERT INTO "trial_user_attributes" VALUES(8,4,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(9,5,'attempts','1');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,0.5,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,0.1,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-12-01 09:02:26.432138','2026-12-01 09:02:26.587636');
INSERT INTO "trials" VALUES(2,1,1,'PRUNED','2026-12-01 09:02:26.637103','2026-12-01 09:02:26.716656');
INSERT INTO "trials" VALUES(3,2,1,'FAIL','2026-12-01 09:02:26.760688','2026-12-01 09:02:26.799534');
INSERT INTO "trials" VALUES(4,3,1,'WAITING','2026-12-01 09:02:26.836738',NULL);
INSERT INTO "trials" VALUES(5,4,1,'RUNNING','2026-12-01 09:02:26.923429',NULL);
INSERT INTO "trials" VALUES(6,5,1,'WAITING',NULL,NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
CREATE INDEX ix_hpo_leases_study_id ON hpo_leases (study_id);
CREATE TRIGGER hpo_leases_of_trials AFTER DELETE ON trials BEGIN DELETE FROM hpo_leases WHERE trial_id = OLD.trial_id; END;
COMMIT;

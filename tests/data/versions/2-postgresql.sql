CREATE TYPE public.studydirection AS ENUM (
    'NOT_SET',
    'MINIMIZE',
    'MAXIMIZE'
);
CREATE TYPE public.trialintermediatevaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG',
    'NAN'
);
CREATE TYPE public.trialstate AS ENUM (
    'RUNNING',
    'COMPLETE',
    'PRUNED',
    'FAIL',
    'WAITING'
);
CREATE TYPE public.trialvaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG'
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.hpo_attempts (
    trial_id integer NOT NULL,
    token integer NOT NULL,
    study_id integer NOT NULL,
    owner text NOT NULL,
    host text NOT NULL,
    device text NOT NULL,
    hardware text NOT NULL,
    versions text NOT NULL,
    began double precision NOT NULL,
    ended double precision,
    epochs integer,
    outcome text,
    reason text
);
CREATE TABLE public.hpo_events (
    event_id integer NOT NULL,
    study_id integer NOT NULL,
    moment double precision NOT NULL,
    kind text NOT NULL,
    trial integer,
    actor text NOT NULL,
    detail text NOT NULL
);
CREATE SEQUENCE public.hpo_events_event_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.hpo_events_event_id_seq OWNED BY public.hpo_events.event_id;
CREATE TABLE public.hpo_leases (
    trial_id integer NOT NULL,
    study_id integer NOT NULL,
    owner text,
    process text,
    host text,
    device text,
    token integer NOT NULL,
    attempts integer NOT NULL,
    expires double precision NOT NULL,
    renewed double precision NOT NULL,
    checkpoint text,
    epoch integer NOT NULL
);
CREATE TABLE public.hpo_schema (
    version integer NOT NULL
);
CREATE TABLE public.studies (
    study_id integer NOT NULL,
    study_name character varying(512) NOT NULL
);
CREATE SEQUENCE public.studies_study_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_study_id_seq OWNED BY public.studies.study_id;
CREATE TABLE public.study_directions (
    study_direction_id integer NOT NULL,
    direction public.studydirection NOT NULL,
    study_id integer NOT NULL,
    objective integer NOT NULL
);
CREATE SEQUENCE public.study_directions_study_direction_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_directions_study_direction_id_seq OWNED BY public.study_directions.study_direction_id;
CREATE TABLE public.study_system_attributes (
    study_system_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_system_attributes_study_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_system_attributes_study_system_attribute_id_seq OWNED BY public.study_system_attributes.study_system_attribute_id;
CREATE TABLE public.study_user_attributes (
    study_user_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_user_attributes_study_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_user_attributes_study_user_attribute_id_seq OWNED BY public.study_user_attributes.study_user_attribute_id;
CREATE TABLE public.trial_heartbeats (
    trial_heartbeat_id integer NOT NULL,
    trial_id integer NOT NULL,
    heartbeat timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq OWNED BY public.trial_heartbeats.trial_heartbeat_id;
CREATE TABLE public.trial_intermediate_values (
    trial_intermediate_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    step integer NOT NULL,
    intermediate_value double precision,
    intermediate_value_type public.trialintermediatevaluetype NOT NULL
);
CREATE SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq OWNED BY public.trial_intermediate_values.trial_intermediate_value_id;
CREATE TABLE public.trial_params (
    param_id integer NOT NULL,
    trial_id integer,
    param_name character varying(512),
    param_value double precision,
    distribution_json text
);
CREATE SEQUENCE public.trial_params_param_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_params_param_id_seq OWNED BY public.trial_params.param_id;
CREATE TABLE public.trial_system_attributes (
    trial_system_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq OWNED BY public.trial_system_attributes.trial_system_attribute_id;
CREATE TABLE public.trial_user_attributes (
    trial_user_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq OWNED BY public.trial_user_attributes.trial_user_attribute_id;
CREATE TABLE public.trial_values (
    trial_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    objective integer NOT NULL,
    value double precision,
    value_type public.trialvaluetype NOT NULL
);
CREATE SEQUENCE public.trial_values_trial_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_values_trial_value_id_seq OWNED BY public.trial_values.trial_value_id;
CREATE TABLE public.trials (
    trial_id integer NOT NULL,
    number integer,
    study_id integer,
    state public.trialstate NOT NULL,
    datetime_start timestamp without time zone,
    datetime_complete timestamp without time zone
);
CREATE SEQUENCE public.trials_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trials_trial_id_seq OWNED BY public.trials.trial_id;
CREATE TABLE public.version_info (
    version_info_id integer NOT NULL,
    schema_version integer,
    library_version character varying(256),
    CONSTRAINT version_info_version_info_id_check CHECK ((version_info_id = 1))
);
ALTER TABLE ONLY public.hpo_events ALTER COLUMN event_id SET DEFAULT nextval('public.hpo_events_event_id_seq'::regclass);
ALTER TABLE ONLY public.studies ALTER COLUMN study_id SET DEFAULT nextval('public.studies_study_id_seq'::regclass);
ALTER TABLE ONLY public.study_directions ALTER COLUMN study_direction_id SET DEFAULT nextval('public.study_directions_study_direction_id_seq'::regclass);
ALTER TABLE ONLY public.study_system_attributes ALTER COLUMN study_system_attribute_id SET DEFAULT nextval('public.study_system_attributes_study_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.study_user_attributes ALTER COLUMN study_user_attribute_id SET DEFAULT nextval('public.study_user_attributes_study_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_heartbeats ALTER COLUMN trial_heartbeat_id SET DEFAULT nextval('public.trial_heartbeats_trial_heartbeat_id_seq'::regclass);
ALTER TABLE ONLY public.trial_intermediate_values ALTER COLUMN trial_intermediate_value_id SET DEFAULT nextval('public.trial_intermediate_values_trial_intermediate_value_id_seq'::regclass);
ALTER TABLE ONLY public.trial_params ALTER COLUMN param_id SET DEFAULT nextval('public.trial_params_param_id_seq'::regclass);
ALTER TABLE ONLY public.trial_system_attributes ALTER COLUMN trial_system_attribute_id SET DEFAULT nextval('public.trial_system_attributes_trial_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_user_attributes ALTER COLUMN trial_user_attribute_id SET DEFAULT nextval('public.trial_user_attributes_trial_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_values ALTER COLUMN trial_value_id SET DEFAULT nextval('public.trial_values_trial_value_id_seq'::regclass);
ALTER TABLE ONLY public.trials ALTER COLUMN trial_id SET DEFAULT nextval('public.trials_trial_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('v3.2.0.a');
INSERT INTO public.hpo_attempts VALUES (1, 1, 1, 'vm/15622', 'vm', 'cpu', '', '{}', 1796115769.097473, 1796115769.1368, 2, 'complete', '');
INSERT INTO public.hpo_attempts VALUES (2, 1, 1, 'vm/15622', 'vm', 'cpu', '', '{}', 1796115769.163446, 1796115769.187047, 1, 'pruned', '');
INSERT INTO public.hpo_attempts VALUES (3, 1, 1, 'vm/15622', 'vm', 'cpu', '', '{}', 1796115769.212462, 1796115769.226647, 0, 'failed', '');
INSERT INTO public.hpo_attempts VALUES (5, 1, 1, 'vm/15622', 'vm', 'cpu', '', '{}', 1796115769.282156, NULL, NULL, NULL, NULL);
INSERT INTO public.hpo_attempts VALUES (4, 1, 1, 'vm/15622', 'vm', 'cpu', '', '{}', 1796115769.246717, 1796115769.292517, 1, 'released', '');
INSERT INTO public.hpo_events VALUES (1, 1, 1796115769.036384, 'created', NULL, 'root@vm', '6 trials');
INSERT INTO public.hpo_leases VALUES (1, 1, NULL, NULL, 'vm', 'cpu', 1, 1, 0, 1796115769.1349, NULL, 2);
INSERT INTO public.hpo_leases VALUES (2, 1, NULL, NULL, 'vm', 'cpu', 1, 1, 0, 1796115769.18335, NULL, 1);
INSERT INTO public.hpo_leases VALUES (3, 1, NULL, NULL, 'vm', 'cpu', 1, 1, 0, 1796115769.223009, NULL, 0);
INSERT INTO public.hpo_leases VALUES (5, 1, 'vm/15622', '35f5e654-20bd-4395-9adf-9330326939c8/pid:[4026531836]/15622/437107', 'vm', 'cpu', 1, 0, 1796115829.287622, 1796115769.287625, '1', 1);
INSERT INTO public.hpo_leases VALUES (4, 1, NULL, NULL, 'vm', 'cpu', 1, 0, 0, 1796115769.29191, '1', 1);
INSERT INTO public.hpo_schema VALUES (2);
INSERT INTO public.studies VALUES (1, 'study');
INSERT INTO public.study_directions VALUES (1, 'MAXIMIZE', 1, 0);
INSERT INTO public.study_system_attributes VALUES (1, 1, 'study:metric_names', '["accuracy"]');
INSERT INTO public.study_system_attributes VALUES (2, 1, 'hpo:file', '"text"');
INSERT INTO public.study_system_attributes VALUES (3, 1, 'hpo:definition', '"{\"name\":\"study\",\"train\":{\"dataset\":\"digits\",\"image_size\":224,\"limit\":null,\"valid_fraction\":0.1,\"split_seed\":0,\"corrupt\":\"refuse\",\"resize\":\"crop\",\"transparency\":\"white\",\"max_pixels\":179000000,\"cache\":\"auto\",\"selection\":\"valid\",\"metric\":\"accuracy\",\"augmentation\":\"none\",\"auto_augment\":\"none\",\"random_erasing\":0.0,\"mixup_alpha\":0.0,\"cutmix_alpha\":0.0,\"precision\":\"auto\",\"memory_format\":\"auto\",\"compile\":false,\"cuda_graphs\":false,\"model\":\"resnet18\",\"weights\":\"imagenet\",\"preprocessing\":\"weights\",\"tune\":\"all\",\"dropout\":null,\"drop_path\":0.0,\"loss\":\"cross_entropy\",\"label_smoothing\":0.0,\"focal_gamma\":2.0,\"class_weights\":\"none\",\"sampling\":\"shuffle\",\"optimizer\":\"sgd\",\"lr\":0.001,\"momentum\":0.9,\"nesterov\":false,\"weight_decay\":0.0,\"decay_norms\":true,\"layer_decay\":1.0,\"head_lr_multiplier\":1.0,\"freeze_epochs\":0,\"batch_size\":16,\"accumulate_steps\":1,\"clip_grad_norm\":null,\"ema_decay\":null,\"schedule\":\"step\",\"step_size\":5,\"gamma\":0.1,\"warmup_epochs\":0,\"min_lr\":0.0,\"epochs\":3,\"early_stopping\":null,\"seed\":0},\"space\":[{\"name\":\"lr\",\"kind\":\"float\",\"values\":{\"low\":0.0001,\"high\":1.0,\"log\":true,\"step\":null,\"when\":{}}}],\"search\":{\"trials\":6,\"replicates\":1,\"epochs\":null,\"device_hours\":null,\"deadline\":null,\"target\":null,\"direction\":\"maximize\",\"metric_name\":\"accuracy\",\"strategy\":\"auto\",\"sampler\":{\"name\":\"tpe\",\"seed\":0},\"pruner\":{\"name\":\"none\",\"min_epochs\":2,\"reduction_factor\":4,\"startup_trials\":5,\"percentile\":25.0,\"patience\":5},\"objectives\":[],\"prune_points\":false,\"chance_epochs\":3,\"max_attempts\":10,\"keep_weights\":null,\"start_from\":[],\"track\":\"none\"},\"points\":[],\"enqueued\":[],\"left_out_trials\":0,\"finishes\":null}"');
INSERT INTO public.study_user_attributes VALUES (1, 1, 'folder', '"study-7d512b3e"');
INSERT INTO public.study_user_attributes VALUES (2, 1, 'selection', '"valid"');
INSERT INTO public.trial_intermediate_values VALUES (1, 1, 1, 0.25, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (2, 1, 2, 0.5, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (3, 2, 1, 0.1, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (4, 4, 1, 0.3, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (5, 5, 1, 0.4, 'FINITE');
INSERT INTO public.trial_system_attributes VALUES (1, 1, 'hpo:plan', '"search 1"');
INSERT INTO public.trial_system_attributes VALUES (2, 2, 'hpo:plan', '"search 2"');
INSERT INTO public.trial_system_attributes VALUES (3, 3, 'hpo:plan', '"search 3"');
INSERT INTO public.trial_system_attributes VALUES (4, 4, 'hpo:plan', '"search 4"');
INSERT INTO public.trial_system_attributes VALUES (5, 5, 'hpo:plan', '"search 5"');
INSERT INTO public.trial_system_attributes VALUES (6, 6, 'hpo:plan', '"search 6"');
INSERT INTO public.trial_user_attributes VALUES (1, 1, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (2, 1, 'epoch_seconds', '[2.0, 2.5]');
INSERT INTO public.trial_user_attributes VALUES (4, 1, 'wall_time_seconds', '4.5');
INSERT INTO public.trial_user_attributes VALUES (5, 2, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (6, 2, 'pruned', '"by median at epoch 1"');
INSERT INTO public.trial_user_attributes VALUES (7, 3, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (8, 3, 'failure', '{"class": "ValueError", "message": "no luck"}');
INSERT INTO public.trial_user_attributes VALUES (9, 4, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (10, 5, 'attempts', '1');
INSERT INTO public.trial_values VALUES (1, 1, 0, 0.5, 'FINITE');
INSERT INTO public.trial_values VALUES (2, 2, 0, 0.1, 'FINITE');
INSERT INTO public.trials VALUES (6, 5, 1, 'WAITING', NULL, NULL);
INSERT INTO public.trials VALUES (1, 0, 1, 'COMPLETE', '2026-12-01 09:02:49.097826', '2026-12-01 09:02:49.138819');
INSERT INTO public.trials VALUES (2, 1, 1, 'PRUNED', '2026-12-01 09:02:49.163701', '2026-12-01 09:02:49.18778');
INSERT INTO public.trials VALUES (3, 2, 1, 'FAIL', '2026-12-01 09:02:49.212589', '2026-12-01 09:02:49.227208');
INSERT INTO public.trials VALUES (5, 4, 1, 'RUNNING', '2026-12-01 09:02:49.28227', NULL);
INSERT INTO public.trials VALUES (4, 3, 1, 'WAITING', '2026-12-01 09:02:49.246832', NULL);
INSERT INTO public.version_info VALUES (1, 12, '5.0.0');
SELECT pg_catalog.setval('public.hpo_events_event_id_seq', 1, true);
SELECT pg_catalog.setval('public.studies_study_id_seq', 1, true);
SELECT pg_catalog.setval('public.study_directions_study_direction_id_seq', 1, true);
SELECT pg_catalog.setval('public.study_system_attributes_study_system_attribute_id_seq', 3, true);
SELECT pg_catalog.setval('public.study_user_attributes_study_user_attribute_id_seq', 2, true);
SELECT pg_catalog.setval('public.trial_heartbeats_trial_heartbeat_id_seq', 1, false);
SELECT pg_catalog.setval('public.trial_intermediate_values_trial_intermediate_value_id_seq', 5, true);
SELECT pg_catalog.setval('public.trial_params_param_id_seq', 1, false);
SELECT pg_catalog.setval('public.trial_system_attributes_trial_system_attribute_id_seq', 6, true);
SELECT pg_catalog.setval('public.trial_user_attributes_trial_user_attribute_id_seq', 10, true);
SELECT pg_catalog.setval('public.trial_values_trial_value_id_seq', 2, true);
SELECT pg_catalog.setval('public.trials_trial_id_seq', 6, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.hpo_attempts
    ADD CONSTRAINT hpo_attempts_pkey PRIMARY KEY (trial_id, token);
ALTER TABLE ONLY public.hpo_events
    ADD CONSTRAINT hpo_events_pkey PRIMARY KEY (event_id);
ALTER TABLE ONLY public.hpo_leases
    ADD CONSTRAINT hpo_leases_pkey PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_pkey PRIMARY KEY (study_direction_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_objective_key UNIQUE (study_id, objective);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_pkey PRIMARY KEY (study_system_attribute_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_pkey PRIMARY KEY (study_user_attribute_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_pkey PRIMARY KEY (trial_heartbeat_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_key UNIQUE (trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_pkey PRIMARY KEY (trial_intermediate_value_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_step_key UNIQUE (trial_id, step);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_pkey PRIMARY KEY (param_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_param_name_key UNIQUE (trial_id, param_name);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_pkey PRIMARY KEY (trial_system_attribute_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_pkey PRIMARY KEY (trial_user_attribute_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_pkey PRIMARY KEY (trial_value_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_objective_key UNIQUE (trial_id, objective);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.version_info
    ADD CONSTRAINT version_info_pkey PRIMARY KEY (version_info_id);
CREATE INDEX ix_hpo_attempts_study_id ON public.hpo_attempts USING btree (study_id);
CREATE INDEX ix_hpo_events_study_id ON public.hpo_events USING btree (study_id);
CREATE INDEX ix_hpo_leases_study_id ON public.hpo_leases USING btree (study_id);
CREATE UNIQUE INDEX ix_studies_study_name ON public.studies USING btree (study_name);
CREATE INDEX ix_trials_study_id ON public.trials USING btree (study_id);
ALTER TABLE ONLY public.hpo_attempts
    ADD CONSTRAINT hpo_attempts_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.hpo_events
    ADD CONSTRAINT hpo_events_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.hpo_leases
    ADD CONSTRAINT hpo_leases_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);

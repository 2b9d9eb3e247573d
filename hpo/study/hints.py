"""What to say of an option that hpo does not have under the name that other programs give it.

The names are those of timm's ``train.py``, of torchvision's classification reference, of ultralytics and
of Hugging Face's ``TrainingArguments``; a few are other people's. A hint is the name of our option, or one
sentence that says what to do instead; options in it are written as ``train.NAME`` or ``search.NAME``.
Similar names need no hint: ``errors.suggestion`` finds misspelt ones.
"""

from collections.abc import Collection, Mapping

from hpo.errors import suggestion

_EVALUATION = "images are prepared as train.resize says, in training and evaluation alike"
_LOADERS = "images are decoded once, by all cores, so there are no loader processes to configure"
_ADAM = "optimizers have torch's defaults for what has no option"
_SAVING = "trials save checkpoints by themselves, and keep the weights of their best epoch"
_RESUMED = "trials resume from their last checkpoint by themselves: run the same command again"
_SPLITS = "a data set's own splits are used, else train.valid_fraction of each class is held out"
_STEPS = "durations are epochs, not steps: train.epochs, train.warmup_epochs"
_DEVICE = "devices belong to the command line: hpo run STUDY --devices cuda:0,cuda:1"
_ARTIFACTS = "files belong to the command line: --artifacts PATH"
_CURVES = "curves are always written, also for TensorBoard; hpo report shows them"
_COLORS = "train.auto_augment changes colours and geometry at random"
_DETECTION = "hpo trains classifiers; this is for detection"
_FREEZING = "train.tune = 'head' trains the last layer alone, train.freeze_epochs does so at first"
_MEMORY = "activations are not recomputed; a smaller train.batch_size needs less memory"
_MIXING = "train.mixup_alpha and train.cutmix_alpha alone decide how images are mixed"
_ONE_PROCESS = "a trial runs on one device; several devices run several trials"
_NAME = "the study's name is the key name at the top of the file, or --name"

TRAIN_HINTS: Mapping[str, str] = {
    # data
    "data": "dataset",
    "data_dir": "dataset",
    "data_path": "dataset",
    "dataset_name": "dataset",
    "download": "published data sets are downloaded when they are missing",
    "train_split": _SPLITS,
    "val_split": _SPLITS,
    "validation_split": "valid_fraction",
    "num_classes": "the number of classes is that of the data set",
    "class_map": "classes are named by their folders, or by the column label of a list",
    "fraction": "limit",
    "max_train_samples": "limit",
    "train_num_samples": "limit",
    "input_size": "image_size",
    "train_crop_size": "image_size",
    "size": "image_size",
    "crop_pct": _EVALUATION,
    "val_resize_size": _EVALUATION,
    "val_crop_size": _EVALUATION,
    "rect": "images are square; train.resize says how they become so",
    "in_chans": "grey images become three equal channels",
    "mean": "preprocessing",
    "std": "preprocessing",
    "interpolation": "preprocessing",
    "train_interpolation": "preprocessing",
    "workers": _LOADERS,
    "num_workers": _LOADERS,
    "dataloader_num_workers": _LOADERS,
    "pin_mem": _LOADERS,
    "prefetcher": _LOADERS,
    # augmentation
    "aa": "auto_augment",
    "ra_magnitude": "train.auto_augment = 'randaugment' has magnitude 9",
    "hflip": "augmentation",
    "fliplr": "augmentation",
    "vflip": "there is no vertical flip; train.augmentation flips left to right",
    "flipud": "there is no vertical flip; train.augmentation flips left to right",
    "scale": "train.augmentation = 'resized_crop' keeps 8 % to 100 % of the area",
    "ratio": "train.augmentation = 'resized_crop' has ratios of 3/4 to 4/3",
    "color_jitter": _COLORS,
    "hsv_h": _COLORS,
    "hsv_s": _COLORS,
    "hsv_v": _COLORS,
    "degrees": _COLORS,
    "translate": _COLORS,
    "shear": _COLORS,
    "perspective": _DETECTION,
    "mosaic": _DETECTION,
    "close_mosaic": _DETECTION,
    "copy_paste": _DETECTION,
    "single_cls": _DETECTION,
    "no_aug": "train.augmentation = 'none' is the default",
    "reprob": "random_erasing",
    "random_erase": "random_erasing",
    "erasing": "random_erasing",
    "remode": "train.random_erasing fills a box with the mean colour",
    "recount": "train.random_erasing erases one box",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "mixup_prob": _MIXING,
    "mixup_switch_prob": _MIXING,
    "mixup_mode": _MIXING,
    "mixup_off_epoch": _MIXING,
    "ra_sampler": "there is no repeated augmentation; each epoch draws as train.sampling says",
    "aug_repeats": "there is no repeated augmentation; each epoch draws as train.sampling says",
    # model
    "net": "model",
    "arch": "model",
    "architecture": "model",
    "backbone": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "pretrained_path": "weights",
    "initial_checkpoint": "weights",
    "checkpoint_path": "weights",
    "drop": "dropout",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "stochastic_depth": "drop_path",
    "stochastic_depth_prob": "drop_path",
    "freeze": _FREEZING,
    "freeze_backbone": _FREEZING,
    "linear_probe": _FREEZING,
    "gp": "models pool as their library builds them",
    "bn_momentum": "batch norms are as their library builds them",
    "bn_eps": "batch norms are as their library builds them",
    "sync_bn": _ONE_PROCESS,
    # loss
    "criterion": "loss",
    "loss_fn": "loss",
    "smoothing": "label_smoothing",
    "label_smoothing_factor": "label_smoothing",
    "bce_loss": "there is no binary cross entropy; see train.loss",
    "jsd_loss": "there is no such loss; see train.loss",
    "class_weight": "class_weights",
    "cls": _DETECTION,
    "box": _DETECTION,
    # optimizer
    "opt": "optimizer",
    "optim": "optimizer",
    "optimiser": "optimizer",
    "learning_rate": "lr",
    "learningrate": "lr",
    "lr0": "lr",
    "base_lr": "lr",
    "lr_base": "lr",
    "blr": "lr",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "llrd": "layer_decay",
    "layerwise_lr_decay": "layer_decay",
    "layer_wise_lr_decay": "layer_decay",
    "backbone_lr": "train.head_lr_multiplier is a factor on train.lr for the last layer",
    "head_lr": "train.head_lr_multiplier is a factor on train.lr for the last layer",
    "norm_weight_decay": "decay_norms",
    "bias_weight_decay": "decay_norms",
    "opt_eps": _ADAM,
    "opt_betas": _ADAM,
    "adam_beta1": _ADAM,
    "adam_beta2": _ADAM,
    "adam_epsilon": _ADAM,
    "clip_grad": "clip_grad_norm",
    "max_grad_norm": "clip_grad_norm",
    "gradient_clip_val": "clip_grad_norm",
    "clip_mode": "train.clip_grad_norm limits the norm of all gradients together",
    "grad_accum_steps": "accumulate_steps",
    "gradient_accumulation_steps": "accumulate_steps",
    "accumulate_grad_batches": "accumulate_steps",
    "nbs": "accumulate_steps",
    "model_ema": "ema_decay",
    "model_ema_decay": "ema_decay",
    "ema": "ema_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "validation_batch_size": "evaluation chooses the size of its batches",
    "per_device_eval_batch_size": "evaluation chooses the size of its batches",
    # schedule
    "sched": "schedule",
    "scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "lr_schedule": "schedule",
    "cos_lr": "train.schedule = 'cosine' is the cosine schedule",
    "lrf": "min_lr",
    "lr_min": "min_lr",
    "eta_min": "min_lr",
    "decay_epochs": "step_size",
    "lr_step_size": "step_size",
    "decay_rate": "gamma",
    "lr_gamma": "gamma",
    "lr_warmup_epochs": "warmup_epochs",
    "warmup": "warmup_epochs",
    "warmup_steps": _STEPS,
    "warmup_ratio": _STEPS,
    "max_steps": _STEPS,
    "warmup_lr": "a warm-up rises from nearly 0 to train.lr in train.warmup_epochs",
    "lr_warmup_decay": "a warm-up rises from nearly 0 to train.lr in train.warmup_epochs",
    "lr_warmup_method": "a warm-up is linear, over train.warmup_epochs",
    "cooldown_epochs": "train.min_lr is the rate below which no schedule falls",
    "lr_noise": "there is no noise on the learning rate",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_train_epochs": "epochs",
    "patience": "early_stopping",
    "patience_epochs": "early_stopping",
    "early_stopping_patience": "early_stopping",
    # computing
    "random_state": "seed",
    "random_seed": "seed",
    "amp": "train.precision = 'bf16' or 'fp16' computes in 16 bits",
    "amp_dtype": "precision",
    "half": "train.precision = 'bf16' or 'fp16' computes in 16 bits",
    "fp16": "train.precision = 'fp16'",
    "bf16": "train.precision = 'bf16'",
    "tf32": "train.precision = 'tf32'",
    "torchcompile": "compile",
    "torch_compile": "compile",
    "channels_last": "train.memory_format = 'channels_last'",
    "grad_checkpointing": _MEMORY,
    "gradient_checkpointing": _MEMORY,
    "device": _DEVICE,
    "devices": _DEVICE,
    "local_rank": _ONE_PROCESS,
    "world_size": _ONE_PROCESS,
    # results
    "eval_metric": "metric",
    "monitor": "metric",
    "metric_for_best_model": "metric",
    "greater_is_better": "the direction is that of train.metric: loss is minimized, the others maximized",
    "load_best_model_at_end": _SAVING,
    "resume": _RESUMED,
    "resume_from_checkpoint": _RESUMED,
    "start_epoch": _RESUMED,
    "save_strategy": _SAVING,
    "save_period": _SAVING,
    "checkpoint_hist": "search.keep_weights is the number of searched settings whose weights are kept",
    "save_total_limit": "search.keep_weights is the number of searched settings whose weights are kept",
    "eval_strategy": "trials are evaluated after every epoch",
    "evaluation_strategy": "trials are evaluated after every epoch",
    "log_interval": _CURVES,
    "print_freq": _CURVES,
    "logging_steps": _CURVES,
    "output": _ARTIFACTS,
    "output_dir": _ARTIFACTS,
    "project": _NAME,
    "experiment": _NAME,
    "run_name": _NAME,
    "tta": "images are evaluated once, without changes",
    "test_only": "hpo finish evaluates the best settings on the test split",
    "trials": "search.trials is the number of searched trials",
    "n_trials": "search.trials is the number of searched trials",
}

SEARCH_HINTS: Mapping[str, str] = {
    "num_trials": "trials",
    "max_trials": "trials",
    "num_samples": "trials",
    "n_iter": "trials",
    "timeout": "device_hours",
    "time_budget_s": "device_hours",
    "max_hours": "device_hours",
    "scheduler": "pruner",
    "algorithm": "sampler",
    "search_alg": "sampler",
    "tuner": "sampler",
    "seed": "search.sampler is a table that may have a seed: sampler = { name = 'tpe', seed = 1 }",
    "seeds": "replicates",
    "repeats": "replicates",
    "n_startup_trials": "search.pruner is a table that may have startup_trials",
    "min_resource": "search.pruner is a table that may have min_epochs",
    "grace_period": "search.pruner is a table that may have min_epochs",
    "metric": "train.metric is what trials are compared by; a custom objective has search.metric_name",
    "mode": "the direction is that of train.metric; a custom objective has search.direction",
    "n_jobs": "hpo run STUDY --devices says how many workers there are",
    "max_concurrent_trials": "hpo run STUDY --devices says how many workers there are",
    "enqueue": "list settings under [[points]], or queue one with hpo enqueue",
}


def describe_hint(key: str, allowed: Collection[str], hints: Mapping[str, str]) -> str:
    """Return what to say of an unknown key behind "is not an option"; empty if nothing is known.

    Args:
        key: What the user wrote.
        allowed: The keys that the table may have.
        hints: The hints for the table. Case does not matter, and ``-`` is as good as ``_``.
    """
    hint = hints.get(key.lower().replace("-", "_"))
    if hint is None:
        return suggestion(key, allowed)
    if not hint.isidentifier():
        return f": {hint}"
    if hint not in allowed:
        return f": it is '{hint}' here, which only [train] may give"
    return f"; did you mean '{hint}'?"

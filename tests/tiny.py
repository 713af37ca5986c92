"""The overrides of a training that takes seconds on a CPU, whatever the videos; what differs comes after them."""

TINY = [
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]"),
    *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=1x1"),
    *("data.num_workers=0", "data.batch_size=4", "data.eval_batch_size=8", "logger.wandb=off"),
    *("optim.lr=1e-3", "optim.lr_batch=4", "optim.warmup_epochs=1"),
    *("trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1"),
]

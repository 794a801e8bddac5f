"""A trainer of nnU-Net v2 that stops after a given time of one core; docs/how-to/nnunet.md shows how to use it.

nnU-Net (2.8 or later) finds this file through its environment variable ``nnUNet_extTrainer``.
"""

import os
import time
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_LOGGED = 10  # iterations between two lines of the log


class nnUNetTrainerMinutes(nnUNetTrainer):
    """nnU-Net's trainer with a limit of time in place of 1,000 epochs of 250 iterations.

    The environment variable ``NNUNET_MINUTES`` gives the limit in minutes of processor time of this process, on one
    thread. Set ``nnUNet_n_proc_DA=0``, so that this process augments the data itself. Other programs on the machine
    then do not shorten the training. The learning rate falls by the fraction of the time used, as it does by epochs in
    nnU-Net. Nothing is validated during the training; the last weights are kept.
    """

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return nnU-Net's optimiser and its schedule of learning rates, over fractions of the time."""
        optimizer, schedule = super().configure_optimizers()
        schedule.max_steps = 1
        return optimizer, schedule

    def run_training(self) -> None:
        """Train until the time is used up."""
        torch.set_num_threads(1)  # nnU-Net takes all cores
        seconds = 60 * float(os.environ["NNUNET_MINUTES"])
        self.on_train_start()
        self.network.train()
        start, iterations = time.process_time(), 0
        while (used := (time.process_time() - start) / seconds) < 1:
            self.lr_scheduler.step(used)
            loss = self.train_step(next(self.dataloader_train))["loss"]
            iterations += 1
            if iterations % _LOGGED == 1:
                self.print_to_log_file(f"iteration {iterations}, {used:.0%} of the time, loss {float(loss):.4f}")
        self.print_to_log_file(f"{iterations} iterations in {seconds / 60:g} minutes of one core")
        self.current_epoch = 1  # on_train_end subtracts 1
        self.on_train_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Do nothing: with few cases, the validation cases are training cases, and imagesTs is predicted afterwards."""

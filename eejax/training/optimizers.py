# Copyright 2026 The eejax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Optimizers as the runs configure them.

Any optax transformation will do in their place; these put clipping and the
decay mask where they belong.
"""

import optax

from eejax.training.freeze import decay_mask


def clipped_adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  weight_decay: float = 0.1,
  clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """Return AdamW that clips, and leaves norm gains and biases undecayed.

  Args:
    learning_rate: a number, or any optax schedule.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: times the learning rate, taken off every matrix.
    clip_norm: largest global norm of the trainable part's gradient; None
      does not clip.
  """
  optimizer = optax.adamw(
    learning_rate,
    b1=b1,
    b2=b2,
    eps=eps,
    weight_decay=weight_decay,
    mask=decay_mask,
  )
  if clip_norm is None:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def warmup_cosine(
  peak: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  end_fraction: float = 0.1,
) -> optax.Schedule:
  """Return a linear warm-up and a cosine down to a part of the peak.

  The first step is taken at peak / warmup_steps, not at 0, where it would
  be lost.

  Args:
    peak: highest learning rate.
    steps: length of the run, warm-up included.
    warmup_steps: steps until the peak is reached.
    end_fraction: share of the peak that is left at the end.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=peak / max(warmup_steps, 1),
    peak_value=peak,
    warmup_steps=warmup_steps,
    decay_steps=max(steps, warmup_steps + 1),
    end_value=peak * end_fraction,
  )

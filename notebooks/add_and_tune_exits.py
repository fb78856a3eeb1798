# ---
# jupyter:
#   accelerator: GPU
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eejax/eejax/blob/main/notebooks/add_and_tune_exits.ipynb)
#
# # Add and tune exits
#
# Exits that are trained say more than the model's own head does in the middle.
# The backbone stays frozen, byte for byte, so this costs little: no gradient
# passes through it, and blocks above the deepest exit are not even loaded.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec('eejax') is None:
  package = 'eejax[plot,serve] @ git+https://github.com/eejax/eejax'
  command = [sys.executable, '-m', 'pip', 'install', '--quiet', package]
  subprocess.run(command, check=True)

# %% [markdown]
# Each exit is `DEPTH:HEAD[:GATE]`. `norm` is a norm before the model's output
# matrix, `mlp` the twin of the block's own MLP; a gate learns whether the exit
# agrees with the whole model.

# %% tags=["parameters"]
BACKBONE = 'default'
TEXT = 'stdlib'
EXITS = '3:mlp:gate,6:mlp:gate'
FOLDER = 'runs/notebook_tuned'
STEPS = 500
BATCH_SIZE = 8
SEQUENCE_LENGTH = 256
MAX_TOKENS = 8_000

# %%
# %matplotlib inline
import matplotlib.pyplot as plt

import eejax

text = eejax.read_text(TEXT)
model = eejax.add_exits(eejax.load(BACKBONE), EXITS)

# %% [markdown]
# ## Before
#
# A copied `mlp` exit starts as the model's own read-out at its depth.

# %%
before = eejax.evaluate(model, text, max_tokens=MAX_TOKENS)
before.plot()

# %% [markdown]
# ## Tune
#
# The folder keeps checkpoints and metrics: run this cell again after an
# interruption, and the run goes on.

# %%
run = eejax.tune(
  model,
  text,
  folder=FOLDER,
  steps=STEPS,
  batch_size=BATCH_SIZE,
  sequence_length=SEQUENCE_LENGTH,
)
run.plot()

# %% [markdown]
# ## After

# %%
after = eejax.evaluate(run.model, text, max_tokens=MAX_TOKENS)

figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
for label, result in (('before', before), ('after', after)):
  heads = result.quality.heads
  axes.plot([h.depth for h in heads], [h.loss.value for h in heads], 'o-', label=label)
axes.set_xlabel('depth, blocks')
axes.set_ylabel('loss, nats a token')
axes.legend();

# %%
after

# %% [markdown]
# The deepest point is the final head: it has not moved, for the backbone is
# frozen. Save the model with `eejax.save(run.model, 'checkpoints/tuned')`; next,
# decode with it in `decode_losslessly.ipynb`.

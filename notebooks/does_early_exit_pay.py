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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eejax/eejax/blob/main/notebooks/does_early_exit_pay.ipynb)
#
# # Does early exit pay on my model?
#
# A model pays for every block at every token. Where a shallow read-out says the
# same as the last one, the blocks above it are wasted. This notebook asks a
# model of yours, as it is, without any training: would exits save time *on this
# machine*, and at what loss?

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec('eejax') is None:
  package = 'eejax[plot,serve] @ git+https://github.com/eejax/eejax'
  command = [sys.executable, '-m', 'pip', 'install', '--quiet', package]
  subprocess.run(command, check=True)

# %% [markdown]
# `BACKBONE` is `default` (10.5 million parameters, comes with eejax), a Hugging
# Face folder, a name on the hub, or an eejax checkpoint.

# %% tags=["parameters"]
BACKBONE = 'default'
TEXT = 'stdlib'
MAX_TOKENS = 8_000
PROMPTS = 8
NEW_TOKENS = 64
REPEATS = 3

# %%
# %matplotlib inline
import eejax

model = eejax.load(BACKBONE)
text = eejax.read_text(TEXT)

# %% [markdown]
# ## Every depth, read with the model's own head
#
# The final norm and head read the stream after every block. How far is each
# depth from the last one? Where the curve is flat early, tokens could leave
# early.

# %%
depths = range(1, model.config.model.num_layers)
readable = eejax.add_exits(model, ','.join(f'{d}:norm' for d in depths))
quality = eejax.evaluate(readable, text, max_tokens=MAX_TOKENS)
quality.plot()

# %%
quality

# %% [markdown]
# ## The verdict
#
# `probe` chooses exits, scores and thresholds on one part of the text,
# forecasts on another, and decodes prompts of a third in turns with full
# decoding. It answers *yes* only where the promise holds and the measured
# speed-up exceeds the noise of this machine.

# %%
verdict = eejax.probe(
  model,
  text,
  max_tokens=MAX_TOKENS,
  num_prompts=PROMPTS,
  new_tokens=NEW_TOKENS,
  repeats=REPEATS,
)
verdict

# %%
verdict.plot()

# %% [markdown]
# *Exact* loses nothing; *empirical* is a difference with its interval. With
# `no`, larger or longer-trained models may still say `yes`: early exit shrinks
# with small and heavily distilled ones. Next: train exits of your own in
# `add_and_tune_exits.ipynb`.

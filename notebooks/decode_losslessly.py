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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eejax/eejax/blob/main/notebooks/decode_losslessly.ipynb)
#
# # Decode losslessly, and see it
#
# Exits need not cost quality: they may only *propose* tokens, which the whole
# model then verifies several at a time. What is emitted is the text of full
# decoding, token for token, in less time where proposals are accepted.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec('eejax') is None:
  package = 'eejax[plot,serve] @ git+https://github.com/eejax/eejax'
  command = [sys.executable, '-m', 'pip', 'install', '--quiet', package]
  subprocess.run(command, check=True)

# %% tags=["parameters"]
BACKBONE = 'default'
EXITS = '3:mlp:gate,6:mlp:gate'
PROMPTS = ['def main', 'class Reader', 'import os\n', 'for index in range']
NEW_TOKENS = 64
REPEATS = 3

# %% [markdown]
# A model that has exits is taken as it is; on another one untrained exits begin
# as copies, which is enough to see that nothing is lost. Trained ones
# (`add_and_tune_exits.ipynb`) are accepted more often.

# %%
# %matplotlib inline
import eejax

model = eejax.load(BACKBONE)
if not model.config.exits:
  model = eejax.add_exits(model, EXITS)

# %% [markdown]
# ## The same text twice
#
# Tokens are coloured by the depth at which they were proposed.

# %%
full = eejax.generate(model, PROMPTS, mode='full', max_new_tokens=NEW_TOKENS)
drafted = eejax.generate(
  model, PROMPTS, mode='speculative', thresholds=0.4, max_new_tokens=NEW_TOKENS
)
assert [r.tokens for r in drafted.rows] == [r.tokens for r in full.rows]
drafted

# %%
drafted.plot()

# %% [markdown]
# ## Checked
#
# `verify` decodes prompts both ways and says where two texts part, if they do,
# and whether that is a near tie of rounding.

# %%
eejax.verify(model, PROMPTS, max_new_tokens=NEW_TOKENS, batch_sizes=[1])

# %% [markdown]
# ## What it saves here
#
# Every way to decode in turns with full decoding, on this machine.

# %%
policies = [
  eejax.Policy(
    eejax.Mode.SPECULATIVE, thresholds=(threshold,), prompt_lookup=lookup
  )
  for threshold, lookup in ((0.4, None), (0.8, None), (0.4, 3))
]
measured = eejax.bench(
  model,
  policies,
  prompts=PROMPTS,
  max_new_tokens=NEW_TOKENS,
  repeats=REPEATS,
  batch_sizes=[1],
)
measured.plot()

# %%
measured

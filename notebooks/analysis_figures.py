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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eejax/eejax/blob/main/notebooks/analysis_figures.ipynb)
#
# # The figures of the analysis papers
#
# The analysis papers ask a model, layer by layer, where its answer is ready:
# how deep a token has to go, how alike neighbouring layers are, which tokens are
# easy, how far confidence can be trusted. `eejax.analyse` computes their measures
# on any model and text; `docs/analysis.md` has each formula with its source.

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
TEXT = 'stdlib'
MAX_TOKENS = 16_000
SEQUENCE_LENGTH = 256

# %%
# %matplotlib inline
import matplotlib.pyplot as plt

import eejax

analysis = eejax.analyse(
  eejax.load(BACKBONE),
  eejax.read_text(TEXT),
  leave_out=['verdict', 'free_running', 'kv_damage'],
  max_tokens=MAX_TOKENS,
  sequence_length=SEQUENCE_LENGTH,
)
tables = analysis.tables()


def draw(name, x, *columns, label=None):
  """Plot columns of a table against another one."""
  figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
  for column in columns:
    rows = [r for r in tables[name] if r.get(column) is not None]
    # Some tables have the best row first.
    rows.sort(key=lambda row: row[x])
    axes.plot([r[x] for r in rows], [r[column] for r in rows], 'o-', label=column)
  axes.set_xlabel(x)
  axes.set_title(label or name)
  axes.legend()

# %% [markdown]
# ## What each depth would say
#
# Loss, and distance from the final head, of the model's own read-out at every
# depth.

# %%
draw('readouts', 'depth', 'loss', 'kl_final', 'entropy', label='read-outs by depth')

# %% [markdown]
# ## How deep a token has to go
#
# Three ceilings, which are not the same: the first depth whose answer is the
# final one, the depth from which it stays so, and the first that is right.

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
for ceiling in dict.fromkeys(r['ceiling'] for r in tables['answer_depths']):
  rows = [r for r in tables['answer_depths'] if r['ceiling'] == ceiling]
  axes.step(
    [r['depth'] for r in rows],
    [r['by_then'] for r in rows],
    where='post',
    label=ceiling,
  )
axes.set_xlabel('depth')
axes.set_ylabel('share of tokens that are ready')
axes.legend();

# %% [markdown]
# ## How alike depths are
#
# Similarity of each depth's state with the last one, in several definitions.

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
for settings in dict.fromkeys(r['settings'] for r in tables['similarity']):
  rows = [r for r in tables['similarity'] if r['settings'] == settings]
  axes.plot(
    [r['depth'] for r in rows], [r['similarity'] for r in rows], label=settings
  )
axes.set_xlabel('depth')
axes.set_ylabel('similarity')
axes.legend(fontsize='x-small');

# %% [markdown]
# ## Gates over their thresholds
#
# What share of the blocks a score skips, at which agreement with the whole
# model.

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
sweeps = [r for r in tables['gate_sweeps'] if r['readouts'] == 'natural']
for gate in dict.fromkeys(r['gate'] for r in sweeps):
  rows = [r for r in sweeps if r['gate'] == gate]
  axes.plot([r['skip'] for r in rows], [r['agreement'] for r in rows], label=gate)
axes.set_xlabel('share of blocks skipped')
axes.set_ylabel('agreement with the final head')
axes.legend();

# %% [markdown]
# ## Can confidence be trusted?
#
# Agreement among tokens of equal confidence; on the diagonal a score means what
# it says.

# %%
figure, axes = plt.subplots(figsize=(5, 5), layout='constrained')
readouts = list(dict.fromkeys(r['readout'] for r in tables['reliability']))
for readout in readouts[1 :: max(1, len(readouts) // 4)]:
  rows = [r for r in tables['reliability'] if r['readout'] == readout and r['share']]
  axes.plot(
    [r['confidence'] for r in rows], [r['agreement'] for r in rows], 'o-', label=readout
  )
axes.plot([0, 1], [0, 1], ':', color='grey')
axes.set_xlabel('confidence')
axes.set_ylabel('agreement')
axes.legend();

# %% [markdown]
# ## Which tokens are easy
#
# Blocks that could be skipped, by the kind of the token that is predicted.

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
rows = [r for r in tables['subwords'] if r['classed_by'] == 'target']
axes.barh([r['name'] for r in rows], [r['skip_first_match'] or 0 for r in rows])
axes.set_xlabel('blocks above the first match, share');

# %% [markdown]
# ## What drafting would bring
#
# Predicted speed-up of lossless decoding that drafts at each depth.

# %%
draw('speculation', 'depth', 'speedup', label='self-speculation, predicted')

# %% [markdown]
# `analysis.save('analysis.html')` writes all of it into one page, and
# `eejax analyse` does so from a shell.

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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eejax/eejax/blob/main/notebooks/calibrate_and_serve.ipynb)
#
# # Calibrate a policy and serve it
#
# `early_exit` emits what an exit says and is faster than lossless decoding, if
# one accepts a loss. How much? `calibrate` chooses thresholds whose mean loss
# stays below a limit, with a chance that you name, over texts like those it saw.

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
EXITS = '3:mlp:gate,6:mlp:gate,9:mlp:gate'
FOLDER = 'runs/notebook_served'
STEPS = 500
BATCH_SIZE = 8
SEQUENCE_LENGTH = 256
RISK = 0.05
DELTA = 0.05
SEQUENCES = 384
SEARCH_SEQUENCES = 96
REPORT_SEQUENCES = 16
PROMPT_TOKENS = 32
NEW_TOKENS = 32
MAX_TOKENS = 8_000
MAX_LENGTH = 256

# %%
# %matplotlib inline
import eejax

text = eejax.read_text(TEXT)
model = eejax.load(BACKBONE)
if not model.config.exits:
  model = eejax.add_exits(model, EXITS)
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
# ## Speed against agreement
#
# One threshold for all exits, from always to never: this is what can be had.

# %%
eejax.evaluate(run.model, text, max_tokens=MAX_TOKENS, sweep=True).plot()

# %% [markdown]
# ## A policy with a certificate
#
# A policy that is slower than full decoding is not made, unless asked; here it
# is, so that there is something to serve on every machine.

# %%
policy = eejax.calibrate(
  run.model,
  text,
  risk=RISK,
  delta=DELTA,
  sequences=SEQUENCES,
  search_sequences=SEARCH_SEQUENCES,
  report_sequences=REPORT_SEQUENCES,
  prompt_tokens=PROMPT_TOKENS,
  max_new_tokens=NEW_TOKENS,
  batch_size=BATCH_SIZE,
  allow_slower=True,
)
policy

# %%
prompts = ['def main', 'class Reader']
out = eejax.generate(run.model, prompts, policy=policy, max_new_tokens=NEW_TOKENS)
out.plot()

# %%
out

# %% [markdown]
# ## Serve it
#
# `eejax serve` speaks the OpenAI protocol. It compiles first, then says ready.

# %%
import json
import pathlib
import socket
import subprocess
import time
import urllib.request

with socket.socket() as free:
  free.bind(('127.0.0.1', 0))
  port = free.getsockname()[1]
address = f'http://127.0.0.1:{port}'
eejax.save(run.model, f'{FOLDER}/served', overwrite=True)
policy.save(f'{FOLDER}/policy.json')
log = pathlib.Path(FOLDER, 'serve.log').open('w')
server = subprocess.Popen(
  [
    *(sys.executable, '-m', 'eejax', 'serve', f'{FOLDER}/served'),
    *('--policy', f'{FOLDER}/policy.json', '--port', str(port)),
    *('--slots', '2', '--max-length', str(MAX_LENGTH)),
  ],
  stdout=log,
  stderr=log,
)


def ready():
  try:
    with urllib.request.urlopen(f'{address}/health') as answer:
      return answer.status == 200
  except OSError:
    return False


while not ready():
  assert server.poll() is None, pathlib.Path(FOLDER, 'serve.log').read_text()
  time.sleep(0.5)

# %% [markdown]
# The certificate is for greedy text, so the request says temperature 0; OpenAI's
# default of 1 is refused.

# %%
body = {
  'model': 'served',
  'prompt': 'def main',
  'max_tokens': NEW_TOKENS,
  'temperature': 0,
}
request = urllib.request.Request(
  f'{address}/v1/completions',
  data=json.dumps(body).encode(),
  headers={'Content-Type': 'application/json'},
)
with urllib.request.urlopen(request) as response:
  choice = json.load(response)['choices'][0]
choice['text']

# %% [markdown]
# The answer tells at which depth each token was emitted:

# %%
import matplotlib.pyplot as plt

depths, pieces = choice['eejax']['exit_depths'], choice['eejax']['pieces']
figure, axes = plt.subplots(figsize=(9, 2.5))
axes.bar(range(len(depths)), depths)
axes.set_xticks(
  range(len(depths)), [repr(piece)[1:-1] for piece in pieces], rotation=90
)
axes.set(ylabel='depth', ylim=(0, run.model.config.model.num_layers));

# %% [markdown]
# The page at `/` shows them as they arrive. Any OpenAI client will do:
#
#     client = openai.OpenAI(base_url=f'{address}/v1', api_key='none')

# %%
server.terminate()
server.wait();

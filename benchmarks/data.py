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
"""What a corpus that does not fit in memory costs to prepare and to go on in.

The text is written anew: paragraphs of words that are drawn at random. It is
tokenized by a process of its own, whose largest memory is the figure, with
all that the process has imported.
"""

import itertools
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import figures
import numpy as np
from figures import Figure

from eejax import resources
from eejax.data import batches, token_files
from eejax.data.corpus import Split, TextUnit
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer

WORDS_A_PARAGRAPH = 100
STEPS = 200
_PREPARE = """
import sys
from eejax import resources
from eejax.data import batches
from eejax.data.corpus import TextUnit
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer
text, folder = sys.argv[1:]
tokenizer = Tokenizer.load(resources.default_backbone())
config = DataConfig(text, unit=TextUnit.PARAGRAPH)
batches.prepare_tokens(config, tokenizer, folder)
"""


def write_text(path: pathlib.Path, size: int) -> None:
  """Write about `size` bytes of text."""
  random = np.random.default_rng(0)
  letters = np.array(list('abcdefghijklmnopqrstuvwxyz'))
  words = [
    ''.join(random.choice(letters, n)) for n in random.poisson(4, 9000) + 1
  ]
  held = [
    ' '.join(random.choice(words, WORDS_A_PARAGRAPH)) for _ in range(2000)
  ]
  with path.open('w') as file:
    written = 0
    for number in itertools.count():
      if written >= size:
        return
      written += file.write(f'{number} {held[number % len(held)]}\n\n')


def tokenise_peak(args) -> Figure:
  """Return the megabytes that tokenizing a text takes at most."""
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    write_text(folder / 'text.txt', args.megabytes * 10**6)
    begun = time.monotonic()
    subprocess.run(
      [sys.executable, '-c', _PREPARE, folder / 'text.txt', folder / 'tokens'],
      check=True,
    )
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = sum(f.stat().st_size for f in (folder / 'tokens').iterdir())
  return peak / 1e6, {
    'text_mb': args.megabytes,
    'files_mb': size / 1e6,
    'mb_per_s': args.megabytes / seconds,
  }


def resume_replay(args) -> Figure:
  """Return the batches that going on in the third pass reads again."""
  tokenizer = Tokenizer.load(resources.default_backbone())
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    write_text(folder / 'text.txt', 10**6)
    text = DataConfig(str(folder / 'text.txt'), unit=TextUnit.PARAGRAPH)
    batches.prepare_tokens(text, tokenizer, folder / 'tokens')
    config = DataConfig(f'tokens:{folder / "tokens"}', sequence_length=512)
    made = batches.make_batches(config, tokenizer, Split.TRAIN)
    steps = 3 * _tokens(folder / 'tokens') // (512 * config.batch_size)
    list(itertools.islice(made, steps))
    state, expected = made.state(), next(made)
    again = batches.make_batches(config, tokenizer, Split.TRAIN)
    read = _count_reads()
    again.restore(state)
    np.testing.assert_array_equal(next(again).tokens, expected.tokens)
    tokens = sum(read)
  # A batch reads what it holds, and what is left of its last document.
  replayed = max(tokens // (512 * config.batch_size) - 1, 0)
  return float(replayed), {'after_batches': steps, 'tokens_read': tokens}


def _tokens(folder: pathlib.Path) -> int:
  files = folder.glob('train-*.tokens.npy')
  return sum(len(np.load(file, mmap_mode='r')) for file in files)


def _count_reads() -> list[int]:
  """Return a list that the size of every piece that is read goes into."""
  read: list[int] = []
  take = token_files.TokenPieces.__getitem__

  def note(self, index):
    piece = take(self, index)
    read.append(len(piece))
    return piece

  token_files.TokenPieces.__getitem__ = note
  return read


FIGURES = {'tokenise_peak': tokenise_peak, 'resume_replay': resume_replay}


if __name__ == '__main__':
  made = figures.parser(__doc__, repeats=1)
  made.add_argument(
    '--megabytes',
    type=int,
    default=1000,
    help='of the text that is tokenized (default: 1000)',
  )
  figures.run(made, FIGURES)

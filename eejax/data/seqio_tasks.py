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
"""Text corpora and tfds builders as seqio tasks.

Each task has one feature, `targets`: the token ids of a document and the end
token, if there is one.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

from eejax.data import corpus
from eejax.data.corpus import Split, TextUnit
from eejax.data.seqio_runtime import seqio, tf, tfds
from eejax.data.seqio_sources import TextSource, TfdsSource
from eejax.data.seqio_vocabulary import HuggingFaceVocabulary
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, EejaxError

STANDARD_LIBRARY = 'eejax_stdlib'


def register_standard_library(
  tokenizer: Tokenizer, *, name: str = STANDARD_LIBRARY
) -> seqio.Task:
  """Register the running Python's standard library as a task.

  As all functions here, this replaces a task that has the same name.
  """
  source = TextSource(corpus.standard_library_documents)
  return _register(name, source=source, tokenizer=tokenizer)


def register_files(
  pattern: str | pathlib.Path,
  *,
  name: str,
  tokenizer: Tokenizer,
  unit: TextUnit = TextUnit.FILE,
  field: str = 'text',
) -> seqio.Task:
  """Register the user's text or JSONL files; see `corpus.read_documents`.

  Raises:
    ArgumentError: there is no such file.
  """
  corpus.find_files(pattern)

  def read(split: Split) -> Iterable[str]:
    return corpus.read_documents(pattern, unit=unit, field=field, split=split)

  return _register(name, source=TextSource(read), tokenizer=tokenizer)


@dataclasses.dataclass(frozen=True)
class TfdsSpec:
  """Name texts in a dataset of tensorflow-datasets.

  Attributes:
    dataset: `NAME[/CONFIG][:VERSION]`.
    split: the part to use, such as `train` or `train[:10%]`, which is cut in
      90, 5 and 5 percent for training, validation and test; None uses the
      splits the dataset has.
    field: the feature that holds the text.
  """

  dataset: str
  split: str | None = None
  field: str = 'text'

  @classmethod
  def parse(cls, text: str) -> 'TfdsSpec':
    """Read `NAME[/CONFIG][:VERSION][:SPLIT[:FIELD]]`; parts may be empty.

    Example:
      >>> TfdsSpec.parse('lm1b:1.1.0:train[:1%]')
      TfdsSpec(dataset='lm1b:1.1.0', split='train[:1%]', field='text')

    Raises:
      ArgumentError: there are too many parts, or no name.
    """
    # A colon inside brackets belongs to a slice.
    name, *rest = re.split(r':(?![^\[]*\])', text)
    if rest and re.fullmatch(r'[\d*]+\.[\d*]+\.[\d*]+', rest[0]):
      name = f'{name}:{rest.pop(0)}'
    if not name or len(rest) > 2:
      raise ArgumentError(
        f'{text!r} does not name a tfds dataset; write '
        'NAME/CONFIG:SPLIT:FIELD, for example imdb_reviews:train:text.'
      )
    split, field = [*rest, '', ''][:2]
    return cls(dataset=name, split=split or None, field=field or 'text')


def register_tfds(
  spec: TfdsSpec,
  *,
  name: str,
  tokenizer: Tokenizer,
  data_dir: str | pathlib.Path | None = None,
) -> seqio.Task:
  """Register texts of a tfds dataset, downloading it where it is missing.

  Args:
    spec: which texts.
    name: of the task.
    tokenizer: encodes them.
    data_dir: where datasets are kept; None takes TFDS_DATA_DIR or the
      default of tensorflow-datasets.

  Raises:
    ArgumentError: there is no such dataset, split or feature.
    EejaxError: the dataset cannot be downloaded.
  """
  builder = _prepared_builder(spec.dataset, data_dir)
  features = dict(builder.info.features or {})
  feature = features.get(spec.field)
  if feature is None or feature.tf_dtype != tf.string or feature.shape:
    known = ', '.join(features)
    raise ArgumentError(
      f'{spec.dataset} has no text in a feature {spec.field!r} (its features '
      f'are: {known}); name another one.'
    )
  source = TfdsSource(
    tfds_name=builder.get_reference().tfds_name(include_version=True),
    tfds_data_dir=None if data_dir is None else str(data_dir),
    splits=_tfds_splits(builder, spec),
    read_only=True,
  )
  rekey = functools.partial(
    seqio.preprocessors.rekey, key_map={'targets': spec.field}
  )
  return _register(
    name, source=source, tokenizer=tokenizer, preprocessors=(rekey,)
  )


def _prepared_builder(
  dataset: str, data_dir: str | pathlib.Path | None
) -> tfds.core.DatasetBuilder:
  try:
    builder = tfds.builder(dataset, data_dir=data_dir)
  except Exception as error:  # of a dozen kinds
    raise ArgumentError(
      f'tensorflow-datasets has no dataset {dataset!r}: {_first_line(error)}'
    ) from error
  try:
    builder.download_and_prepare()
  except Exception as error:
    raise EejaxError(
      f'{dataset} is not on this machine and could not be downloaded: '
      f'{_first_line(error)}'
    ) from error
  return builder


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tfds_splits(
  builder: tfds.core.DatasetBuilder, spec: TfdsSpec
) -> dict[str, str]:
  have = builder.info.splits
  if spec.split is None:
    own = {s: s for s in have if s in ('train', 'validation', 'test')}
    return {**own, 'all': '+'.join(have)}
  try:
    pieces = tfds.core.ReadInstruction.from_spec(spec.split).to_absolute(have)
  except (ValueError, KeyError, AssertionError) as error:
    raise ArgumentError(
      f'{spec.dataset} has no split {spec.split!r} (it has: {", ".join(have)}).'
    ) from error
  cuts = {'train': (0, 90), 'validation': (90, 95), 'test': (95, 100)}
  parts: Mapping[str, list[str]] = {s: [] for s in cuts}
  for piece in pieces:
    start = piece.from_ or 0
    end = piece.to
    size = (have[piece.splitname].num_examples if end is None else end) - start
    for part, (low, high) in cuts.items():
      first, last = start + size * low // 100, start + size * high // 100
      if first < last:
        parts[part].append(f'{piece.splitname}[{first}:{last}]')
  cut = {part: '+'.join(found) for part, found in parts.items() if found}
  return {**cut, 'all': spec.split}


def _register(
  name: str,
  *,
  source: seqio.DataSource,
  tokenizer: Tokenizer,
  preprocessors: tuple[Callable[..., tf.data.Dataset], ...] = (),
) -> seqio.Task:
  feature = seqio.Feature(
    vocabulary=HuggingFaceVocabulary(tokenizer),
    add_eos=tokenizer.eos_id is not None,
  )
  tokenize = functools.partial(
    seqio.preprocessors.tokenize, copy_pretokenized=False
  )
  seqio.TaskRegistry.remove(name)
  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[*preprocessors, tokenize, seqio.preprocessors.append_eos],
    output_features={'targets': feature},
    shuffle_buffer_size=None,
  )

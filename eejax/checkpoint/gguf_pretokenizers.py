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
"""How byte-level BPE tokenizers cut text before they merge, by their names.

`tokenizer.ggml.pre` names what a tokenizer.json would spell out: expressions
that are applied one after the other, each cutting the pieces of the one before
into what it matches and what lies between.

Reference: llama.cpp, src/llama-vocab.cpp (which names mean the same), and the
tokenizer.json files of the models (the expressions).
"""

import dataclasses
from collections.abc import Mapping

from tokenizers import Regex, normalizers, pre_tokenizers

from eejax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class PreTokenizer:
  """Describe how text is cut.

  Attributes:
    expressions: applied in their order.
    whole_words: whether a piece that is a token is not looked at further.
    adds_bos: whether texts begin with the start token where a file does not
      say so.
    composes: whether text is brought into Unicode's composed form first.
  """

  expressions: tuple[str, ...]
  whole_words: bool = False
  adds_bos: bool = False
  composes: bool = False

  def normalizer(self) -> normalizers.Normalizer | None:
    """Return what is done to text before it is cut."""
    return normalizers.NFC() if self.composes else None

  def build(self) -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer of the library, bytes included."""
    steps: list[pre_tokenizers.PreTokenizer] = [
      pre_tokenizers.Split(Regex(e), 'isolated') for e in self.expressions
    ]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*steps, as_bytes])


# MARK: Parts of expressions

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_WORD = r'[^\r\n\p{L}\p{N}]?\p{L}+'
_SIGNS = r' ?[^\s\p{L}\p{N}]+[\r\n]*'
_BLANKS = r'\s*[\r\n]+|\s+(?!\S)|\s+'
# Words whose small letters follow the large ones.
_UPPER, _LOWER = (
  r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]',
  r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]',
)
_CASED = r'[^\r\n\p{L}\p{N}]?'
_CASED_SIGNS = r' ?[^\s\p{L}\p{N}]+[\r\n/]*'
# Letters with case, as DeepSeek's first tokenizer lists them.
_CASED_LETTERS = (
  'A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf'
  '\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f'
  '\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481'
  '\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd'
  '\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a'
  '\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57'
  '\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe'
  '\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec'
  '\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d'
  '\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f'
  '\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee'
  '\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787'
  '\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a'
  '\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3'
  '\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2'
  '\U000118a0-\U000118df\U0001e900-\U0001e943'
)
_CJK = '[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+'
_DEEPSEEK_CJK = '[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+'


def _tiktoken(digits: str) -> str:
  """Return the expression of cl100k and its relatives."""
  return f'{_CONTRACTION}|{_WORD}|{digits}|{_SIGNS}|{_BLANKS}'


def _cased(digits: str, end: str = '') -> str:
  """Return the expression of o200k and its relatives."""
  return (
    f'{_CASED}{_UPPER}*{_LOWER}+{end}|{_CASED}{_UPPER}+{_LOWER}*{end}'
    f'|{digits}|{_CASED_SIGNS}|{_BLANKS}'
  )


_DEEPSEEK3_WORDS = (
  r'[!"#$%&\'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+'
  r'|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*'
  rf'|{_BLANKS}'
)
_FALCON = r'[\p{P}\$\+<=>\^~\|`]+'

# MARK: The table

_LLAMA3 = PreTokenizer(
  (_tiktoken(r'\p{N}{1,3}'),), whole_words=True, adds_bos=True
)
_CL100K = PreTokenizer((_tiktoken(r'\p{N}{1,3}'),))
_QWEN2 = PreTokenizer((_tiktoken(r'\p{N}'),), composes=True)
_ONE_DIGIT = PreTokenizer((_tiktoken(r'\p{N}'),))
_GPT = PreTokenizer((_GPT2,))
_DIGITS_GPT = PreTokenizer((r'\p{N}', _GPT2))
_DEEPSEEK3 = PreTokenizer((r'\p{N}{1,3}', _CJK, _DEEPSEEK3_WORDS))
_O200K = PreTokenizer((_cased(r'\p{N}{1,3}', f'{_CONTRACTION}?'),))
_BLOOM = ' ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+'
_BAILING = PreTokenizer(
  (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r'| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+',
  )
)

_GROUPS: tuple[tuple[str, PreTokenizer], ...] = (
  (
    'llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2',
    _LLAMA3,
  ),
  ('qwen2 deepseek-r1-qwen kormo f2llmv2 megrez', _QWEN2),
  ('stablelm2 hunyuan solar-open grok-2', _ONE_DIGIT),
  ('dbrx smaug-bpe chatglm-bpe glm4', _CL100K),
  ('gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4', _GPT),
  ('mpt jais trillion granite-docling jina-es jina-de', _GPT),
  ('olmo', dataclasses.replace(_GPT, composes=True)),
  ('smollm starcoder refact command-r codeshell exaone', _DIGITS_GPT),
  ('minerva-7b', _DIGITS_GPT),
  ('deepseek-v3 hunyuan-dense joyai-llm', _DEEPSEEK3),
  ('gpt-4o llama4 kanana2 minimax-m2', _O200K),
  ('bloom gpt3-finnish poro-chat', PreTokenizer((_BLOOM,))),
  ('viking', PreTokenizer((_BLOOM, r'\p{N}'))),
  ('bailingmoe bailingmoe2 llada-moe', _BAILING),
  (
    'tekken',
    PreTokenizer((_cased(r'\p{N}'),), whole_words=True, adds_bos=True),
  ),
  (
    'deepseek-coder',
    PreTokenizer(
      (r'[\r\n]', r'\s?\p{L}+', r'\s?\p{P}+', _DEEPSEEK_CJK, r'\p{N}')
    ),
  ),
  (
    'deepseek-llm',
    PreTokenizer(
      (
        r'[\r\n]',
        rf'\s?[{_CASED_LETTERS}]+',
        '\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+',
        r'\s+$',
        _DEEPSEEK_CJK,
        r'\p{N}+',
      )
    ),
  ),
  ('falcon', PreTokenizer((_FALCON, _GPT2, '[0-9][0-9][0-9]'))),
  (
    'default',
    PreTokenizer(
      (r'[\p{P}\$\+<=>\^~\|]+', _GPT2, r'\p{N}+', '[0-9][0-9][0-9]')
    ),
  ),
  (
    'seed-coder',
    PreTokenizer(
      (
        f'{_CONTRACTION}|{_WORD}|'
        r'\p{N}| ?[^\s\p{L}\p{N}\r\n]+'
        f'|{_BLANKS}',
      )
    ),
  ),
  (
    'qwen35',
    PreTokenizer(
      (
        rf'{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}'
        rf'| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}',
      ),
      composes=True,
    ),
  ),
  (
    'exaone-moe',
    PreTokenizer(
      (
        f'{_CONTRACTION}|'
        r'[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}'
        r'| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+',
      )
    ),
  ),
  (
    'tiny_aya cohere2moe',
    PreTokenizer(
      (
        r'\d{1,3}(?=(?:\d{3})*\b)',
        _cased(r'\p{N}{1,3}', f'{_CONTRACTION}?'),
      )
    ),
  ),
  ('superbpe', PreTokenizer((r'\p{N}+', r'(?=(\d{3})+(?!\d))'))),
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
  name: pre for names, pre in _GROUPS for name in names.split()
}


def find(name: str | None) -> PreTokenizer:
  """Return the pre-tokenizer of a name.

  Raises:
    CheckpointError: there is no name, or an unknown one.
  """
  if name is None:
    raise CheckpointError(
      'the file does not say how its tokenizer cuts text (tokenizer.ggml.pre), '
      'as old files do not; convert the model again.'
    )
  if name not in PRE_TOKENIZERS:
    raise CheckpointError(
      f'the pre-tokenizer {name!r:.80} of the file is not supported; supported '
      f'are {", ".join(PRE_TOKENIZERS)}.'
    )
  return PRE_TOKENIZERS[name]

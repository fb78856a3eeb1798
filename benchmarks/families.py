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
"""Measure models of every family: exact, in and out of files, and fast.

  python benchmarks/families.py
  python benchmarks/families.py --only gguf_exact,import_peak

The figures are explained in the modules that measure them.
"""

import families_decoding
import figures
from families_exact import families_exact, families_lossless
from families_experts import moe_decode_ratio
from families_files import gguf_exact, import_peak
from families_states import families_kv_error, ssm_scan_ratio

FIGURES: dict[str, figures.Measure] = {
  'families_exact': families_exact,
  'families_lossless': families_lossless,
  'families_kv_error': families_kv_error,
  'gguf_exact': gguf_exact,
  'import_peak': import_peak,
  'ssm_scan_ratio': ssm_scan_ratio,
  'moe_decode_ratio': moe_decode_ratio,
  **families_decoding.FIGURES,
}


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=3)
  families_decoding.add_arguments(parser)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()

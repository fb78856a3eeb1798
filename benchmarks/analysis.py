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
"""Measure what the analyses promise.

  python benchmarks/analysis.py
  python benchmarks/analysis.py --only planted_error,bootstrap_coverage

`capture_ratio` and `cost_model_error` are of times taken in turn within this
process. All others are exact, or of models trained here from fixed seeds.
"""

import analysis_calibration
import analysis_capture
import analysis_suitability
import figures

FIGURES: dict[str, figures.Measure] = (
  analysis_capture.FIGURES
  | analysis_calibration.FIGURES
  | analysis_suitability.FIGURES
)


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=9)
  analysis_suitability.add_arguments(parser)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()

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
"""Measure what training on several devices promises.

  python benchmarks/parallel.py
  python benchmarks/parallel.py --only gradient_error,reshard_equal

Eight devices are simulated in this process: gradients, memory, messages and
ticks are exact, while times are of the work that all of them do together.
"""

import figures
import jax
import parallel_pipeline
import parallel_planner
import parallel_state

FIGURES: dict[str, figures.Measure] = (
  parallel_pipeline.FIGURES | parallel_planner.FIGURES | parallel_state.FIGURES
)


def main() -> None:
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  parser = figures.parser(__doc__.split('\n')[0], repeats=5)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()

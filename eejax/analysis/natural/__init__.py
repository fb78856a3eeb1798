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
"""Natural exits: what a model could leave early without being trained to.

  depths      where each position's answer is there: three depths, three names
  curves      agreement, overlap, losses and divergences by depth
  gates       criteria as detectors of "deep enough"
  alignment   how alike the depths' distributions are; calibration
  subwords    by what is predicted: beginnings of words, digits, ...
  sublayers   exits after attention as well as after blocks
  joint       two models on one text: what joint training changes
  kv_damage   what stand-ins for keys and values do to generated text
  kv_forward  the full model behind tokens that left stand-ins

All but the last two read a captured text, see `eejax.capture.capture`.
"""

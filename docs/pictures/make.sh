#!/usr/bin/env bash
# The before and after pictures of the README, from the samples and the bundled specialists.
set -euo pipefail
cd "$(dirname "$0")/../.."
while read -r kind sample; do
  name=${kind//,/_}
  moceir degrade "samples/clean/$sample.png" -o "docs/pictures/$name.png" --kind "$kind" --seed 1 --overwrite
  moceir restore "docs/pictures/$name.png" -o "docs/pictures/${name}_restored.png" --overwrite
done <<PICTURES
noise the-spices-of-life
rain oakland-zoo-otters
haze roman-colosseum
motion_blur singaporean-cityscape
defocus_blur lake-sherburne
low_light lake-sherburne
snow canyon-wren
jpeg casa-mila
low_light,noise tea-gardens
PICTURES

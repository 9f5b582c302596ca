#!/usr/bin/env bash
# Makes the shipped mini models from nothing but the simulated station: data, policy, autoencoder, world model, judges.
# About three hours on two cores. Every part resumes where it stood when this is started again; results go to runs/mini,
# and with `tools/train_mini_models.sh ship` they replace gymnast_core/weights/mini at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
source tools/env.sh
data=runs/data
mini=runs/mini
export LP_NUM_THREADS=1

collect() { gymnast data collect --workers 2 "$@"; } # --episodes counts what its folder holds: one folder a collection

# What the policy learns from: short successes of the scripted expert, with slips it recovers from.
collect --out $data/demonstrations --policy expert --episodes 200 --keep successes --after-success 3 --noise 0.004 --slip 0.02
# What the world model learns from besides: play, failures, random motion (and the policy itself, below).
collect --out $data/play/mixed --policy mixed --episodes 120 --first-seed 10000 --noise 0.006
collect --out $data/play/flawed --policy expert --episodes 120 --first-seed 20000 --noise 0.008 --slip 0.05 --miss 0.5
collect --out $data/play/random --policy random --episodes 40 --first-seed 30000
# Held out: other seeds.
collect --out $data/heldout/mixed --policy mixed --episodes 16 --first-seed 90000 --noise 0.006
collect --out $data/heldout/expert --policy expert --episodes 24 --first-seed 91000 --noise 0.008 --slip 0.05 --miss 0.4

[ -d $mini/policy ] || gymnast sft --from gymnast_core/policy/recipes/mini.yaml --data $data/demonstrations \
  --out $mini/policy --run $mini/sft
# What practice in imagination will ask about: the policy's own motion, cautious, usual and wild.
collect --out $data/play/policy/first --policy $mini/policy --episodes 130 --first-seed 40000 --temperature 1.0
collect --out $data/play/policy/second --policy $mini/policy --episodes 380 --first-seed 50000 --temperature 1.0
collect --out $data/play/policy/third --policy $mini/policy --episodes 600 --first-seed 100000 --temperature 1.0
collect --out $data/play/policy_hot --policy $mini/policy --episodes 100 --first-seed 60000 --temperature 1.6
collect --out $data/play/policy_greedy --policy $mini/policy --episodes 60 --first-seed 65000 --temperature 0
# The world model never trains on these: the judges learn from what it imagines of them.
collect --out $data/fresh/policy --policy $mini/policy --episodes 320 --first-seed 70000 --temperature 1.0
collect --out $data/fresh/greedy --policy $mini/policy --episodes 60 --first-seed 75000 --temperature 0
collect --out $data/fresh/hot --policy $mini/policy --episodes 60 --first-seed 77000 --temperature 1.6
collect --out $data/heldout_policy/first --policy $mini/policy --episodes 120 --first-seed 95000 --temperature 1.0
collect --out $data/heldout_policy/second --policy $mini/policy --episodes 160 --first-seed 96000 --temperature 1.0

[ -d $mini/autoencoder/model ] || gymnast world-model train-autoencoder \
  --from gymnast_core/world_model/recipes/mini_autoencoder.yaml \
  --data $data/demonstrations $data/play/mixed --run $mini/autoencoder

gymnast world-model train --from gymnast_core/world_model/recipes/mini.yaml \
  --data $data/demonstrations@0.5 $data/play/mixed@1.5 $data/play/flawed@1.5 $data/play/random@0.5 $data/play/policy@2 \
  $data/play/policy_hot@1 $data/play/policy_greedy@1 --autoencoder $mini/autoencoder/model --run $mini/world_model

# A Dyna round: more of the policy's own episodes, and training goes on with them.
collect --out $data/play/policy_more --policy $mini/policy --episodes 500 --first-seed 110000 --temperature 1.0
collect --out $data/play/policy_hot_more --policy $mini/policy --episodes 40 --first-seed 130000 --temperature 1.6
gymnast world-model finetune --init $mini/world_model/model --autoencoder $mini/autoencoder/model \
  --data $data/demonstrations@0.5 $data/play/mixed@1.5 $data/play/flawed@1.5 $data/play/random@0.5 $data/play/policy@2 \
  $data/play/policy_more@2 $data/play/policy_hot@1 $data/play/policy_hot_more@1 $data/play/policy_greedy@1 \
  --steps 3200 --batch 8 --learning-rate 1.2e-3 --decay --warmup 60 --ema 0.998 --run $mini/world_model_more

# The judges also see what the autoencoder makes of the same frames, and what the world model imagines of other episodes
# (with what really became of them), because that is what they will judge.
# A second world model, which confirms successes: other episodes, another seed (`tools/train_mini_models.sh second`).
if [ "${1:-}" = second ]; then
  collect --out $data/second/demonstrations --policy expert --episodes 200 --first-seed 140000 --keep successes --after-success 3 --noise 0.004 --slip 0.02
  collect --out $data/second/mixed --policy mixed --episodes 120 --first-seed 145000 --noise 0.006
  collect --out $data/second/flawed --policy expert --episodes 120 --first-seed 150000 --noise 0.008 --slip 0.05 --miss 0.5
  collect --out $data/second/random --policy random --episodes 40 --first-seed 155000
  collect --out $data/second/policy --policy $mini/policy --episodes 700 --first-seed 160000 --temperature 1.0
  collect --out $data/second/hot --policy $mini/policy --episodes 100 --first-seed 170000 --temperature 1.6
  gymnast world-model train --from gymnast_core/world_model/recipes/mini.yaml --seed 1 \
    --data $data/second/demonstrations@0.5 $data/second/mixed@1.5 $data/second/flawed@1.5 $data/second/random@0.5 \
    $data/second/policy@2 $data/second/hot@1 --autoencoder $mini/autoencoder/model --run $mini/second_world_model
  exit
fi

gymnast world-model reconstruct --data $data/play $data/demonstrations --out $data/reconstructed \
  --autoencoder $mini/autoencoder/model
gymnast world-model reconstruct --data $data/fresh --out $data/imagined --world-model $mini/world_model_more/model
judge() {
  gymnast judge train --data $data/play $data/demonstrations --stride 1 \
    --decoded $data/reconstructed/play $data/reconstructed/demonstrations $data/imagined "$@"
}
[ -d $mini/judge ] || judge --out $mini/judge --run $mini/judge_run
# Another judge, of another size and seed, scores adapters before and after: it trains none.
[ -d $mini/gate_judge ] || judge --size 48 --width 32 --seed 1 --out $mini/gate_judge --run $mini/gate_judge_run

# What its pictures and outcomes are worth; writes gate.json and familiarity.safetensors beside the weights.
gymnast world-model evaluate --model $mini/world_model_more/model --data $data/heldout $data/heldout_policy --held-out 0 \
  --config simulated_drawer --policy $mini/policy --judge $mini/judge --horizon 15 --repeats 2 --run $mini/world_model_evaluation
gymnast policy evaluate --policy $mini/policy --trials 50 --run $mini/policy_evaluation

if [ "${1:-}" = ship ]; then
  weights=gymnast_core/weights/mini
  mkdir -p $weights
  rm -rf $weights/policy $weights/judge $weights/gate_judge $weights/world_model
  cp -r $mini/policy $weights/policy
  cp -r $mini/judge $weights/judge
  cp -r $mini/gate_judge $weights/gate_judge
  cp -r $mini/world_model_more/model $weights/world_model
  [ ! -d $mini/second_world_model ] || cp -r $mini/second_world_model/model $weights/second_world_model
  du -sh $weights/*
fi

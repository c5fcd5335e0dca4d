#!/bin/sh
# scripts/kernel_table.py: kernels of files with the same name go to the op that the plan has, and every row to its bytes.
#
#   kernel_table_test.sh SOURCE_ROOT
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
linear=_ZN4moe44cuda41_GLOBAL__N__d24473e9_9_decode_cu_f2309eb313decode_kernelILi2ELi4EEEvNS0_8ProductsENS1_8DivisionE
state=_ZN4moe44cuda41_GLOBAL__N__b4837d9c_9_decode_cu_3586608313decode_kernelILi1Ef13__nv_bfloat16EEvNS1_6ParamsIT0_T1_EE
choose='_ZN4moe44cuda13choose_kernelENS0_12SampleParamsE'
for step in 0 1 2; do
  at=$((step * 100000))
  printf '%d;%d;%s\n' $((at + 1000)) $((at + 5000)) $linear $((at + 5000)) $((at + 9000)) $state $((at + 9000)) $((at + 10000)) $choose
done >"$work/times.csv"
# plan OP: a layer of a recurrent op with a linear.
plan() {
  cat >"$work/$1.json" <<END
{"vocab_size": 1000, "groups": [], "memory": {"bytes_per_state": 4000, "bytes_per_page": 0},
 "ops": [{"layers": [0], "ops": [{"op": "$1", "role": "mixer", "implementation": "cuda", "weight_bytes": 64},
                                 {"op": "linear_group", "role": "in", "implementation": "cuda", "weight_bytes": 5000}]}]}
END
}
for op in ssm delta_net; do
  plan $op
  python3 "$root/scripts/kernel_table.py" "$work/times.csv" --plan "$work/$op.json" --seqs 2 --context 64 --gbs 4000 --json >"$work/table"
  python3 - "$op" "$work/table" <<'END'
import json, sys
op, table = sys.argv[1], json.load(open(sys.argv[2]))
ops = {row["op"]: row for row in table["kernels"]}
assert sorted(ops) == sorted([op, "linear", "sample"]), ops
moved = {"ssm": 64 + 2 * 2 * 4000, "delta_net": 64 + 9 * 2 * 4000 // 8, "linear": 5000, "sample": 8000}
for name, row in ops.items():
    assert row["bytes"] == moved[name], (name, row)
assert table["step_us"] == sum(row["us"] for row in table["kernels"]) == 100, table
END
done
status=0
plan compress_to_cache
python3 "$root/scripts/kernel_table.py" "$work/times.csv" --plan "$work/compress_to_cache.json" --seqs 2 --context 64 --gbs 4000 \
  >"$work/out" 2>&1 || status=$?
[ "$status" != 0 ] && grep -q 'no kernel of this step belongs to: .*compress_to_cache' "$work/out" ||
  { echo "FAILED: an op without a kernel"; exit 1; }

# Of as many sequences that NormRoute is three launches its bytes are the router's, a linear's.
python3 - "$work/ssm.json" <<'END'
import json, sys
plan = json.load(open(sys.argv[1]))
plan["ops"][0]["ops"] += [{"op": "add_norm", "role": "norm", "implementation": "cuda", "weight_bytes": 16},
                          {"op": "norm_route", "role": "norm_route", "implementation": "cuda", "weight_bytes": 700}]
json.dump(plan, open(sys.argv[1], "w"))
END
python3 "$root/scripts/kernel_table.py" "$work/times.csv" --plan "$work/ssm.json" --seqs 2 --context 64 --gbs 4000 --json >"$work/table"
python3 - "$work/table" <<'END'
import json, sys
rows = {row["op"]: row for row in json.load(open(sys.argv[1]))["kernels"]}
assert rows["linear"]["bytes"] == 5000 + 16 + 700, rows
END

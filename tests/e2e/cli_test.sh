#!/bin/bash
# The command line: help, names, spellings, exit codes of usage errors.
. "$(dirname "$0")/lib.sh"
commands="prepare tokenize inspect init compile simulate profile train eval generate check merge export verify help version"
for c in $commands "tokenizer train" "bench step" "bench ops" "bench grouped-gemm"; do
    if "$moec" $c --help >help.txt 2>&1 && grep -q "^usage: moec $c\|moec $c" help.txt; then passed "moec $c --help"; else failed "moec $c --help" help.txt; fi
    "$moec" help $c >help2.txt 2>&1
    case $c in *\ *) ;; *) ok "moec help $c is the same" cmp help.txt help2.txt ;; esac
done
ok "moec alone prints the commands" "$moec"
cp log overview
for c in $commands; do grep -q "$c" overview || failed "the overview lacks $c" overview; done
ok "moec --help" "$moec" --help
ok "moec --version" "$moec" --version
shows "the version has a number" '^moec [0-9]+\.[0-9]+\.[0-9]+'
ok "moec version" "$moec" version
ok "moec help options is a page" "$moec" help options

refused "an unknown command names the nearest" 2 "did you mean 'train'" "$moec" trian
refused "an unknown command without a near one" 2 "unknown command 'frobnicate'" "$moec" frobnicate
refused "tokenizer alone" 2 'tokenizer' "$moec" tokenizer
t="$moec train --model_id m --dataset_path d"
refused "an unknown option names the nearest" 2 'micro-batch-sise.*did you mean --micro_batch_size' $t --micro-batch-sise 4
refused "an option of another command" 2 'not of' $t --prompt x
refused "a value is missing" 2 '--lr' $t --lr
refused "a word instead of a number" 2 '--lr' $t --lr fast
refused "a number with a tail" 2 '--max_steps' $t --max_steps 10x
refused "a fraction for an integer" 2 '--max_steps' $t --max_steps 1.5
refused "out of range" 2 '--micro_batch_size' $t --micro_batch_size 0
refused "more than 64 bits" 2 '--max_steps' $t --max_steps 99999999999999999999
refused "nan" 2 '--lr' $t --lr nan
refused "negative" 2 '--lr' $t --lr -1
refused "a choice that is none" 2 'constant.*cosine.*linear' $t --lr_schedule exponential
refused "a pair with one number" 2 '--betas' $t --betas 0.9
refused "a required option" 2 'dataset_path' "$moec" train --model_id m
refused "an argument without a name" 2 "'foo'" $t foo
refused "a short option" 2 '-x' $t -x
refused "help of an unknown command" 2 'trian' "$moec" help trian
refused "--graphs on the CPU" 2 'graphs on.*auto or off' $t --device cpu --graphs on
refused "--portable reaches the model" 3 'm: ' $t --device cpu --portable
if [ -e /dev/nvidia0 ]; then
    skip "--device cuda without a device" "there is one"
else
    refused "--device cuda without a device" '[12]' 'cuda|CUDA' $t --device cuda
fi
echo '{"lr": 0.1, "micro_batch_sise": 3}' >typo.json
refused "an unknown key of a config file" 2 'typo.json:1.*did you mean' $t --config typo.json
echo '{"lr": "fast"}' >type.json
refused "a wrong type in a config file" 2 'type.json:1.*lr' $t --config type.json
printf '{\n"lr": 1,\n' >cut.json
refused "a truncated config file" 2 'cut.json' $t --config cut.json
refused "a missing config file" 2 'nowhere.json' $t --config nowhere.json

# The command lines of the reference example, in both spellings, with a config file between defaults and flags.
make_inputs
mkdir books
cp text.txt books/one.txt
cp part.txt books/two.txt
ok "prepare as in the example" "$moec" prepare --data_path_or_name books/ --tokenizer_path_or_name tokenizer --save_path ./books_2k --sequence_length 64
ok "prepare with dashes" "$moec" prepare --data-path-or-name=books/ --tokenizer-path-or-name=tokenizer --save-path=./books_2 --sequence-length=64
ok "the spellings give the same dataset" cmp books_2k/tokens.bin books_2/tokens.bin
ok "compile as in the example" "$moec" compile --model_id model --dataset_path ./books_2k --plan_ngpus=4 --runtime_ngpus=8
shows "its plan has the ranks" '^ranks: 8 in 2 scale units of 4'
ok "compile explains" "$moec" compile --model_id model --sequence_length 64 --runtime_ngpus 8 --html plan.html
shows "the split of every kind of operator" '^  tokens over .* ranks: .*embed_tokens x1'
shows "what would make the alternatives win" '^alternatives, and the one change'
shows "what memory and links would buy" '^  links twice as fast: '
# Float32 moments that fit only when backward repeats much: moments of 8 bits would be faster, and it says so.
compile_cuda() { "$moec" compile --model_id model --sequence_length 64 --micro_batch_size 64 --global_batch_size 64 --runtime_ngpus 1 --device cuda --cluster h200 "$@" >cuda.out 2>&1; }
peak_of() { compile_cuda "$@" && sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' cuda.out; }
if compile_cuda || ! grep -q 'built without' cuda.out; then
    exact=$(peak_of --moments fp32) few=$(peak_of --moments int8)
    ok "less memory than exact moments want" compile_cuda --mem_constraint "$(awk "BEGIN {print ($exact + $few) / 2e9}")"
    ok "the moments that would be faster" grep -q '^  --moments int8: [0-9.]* ms of .* 0 repeated' cuda.out
    ok "nothing to gain where they are asked for" compile_cuda --moments int8 --mem_constraint "$(awk "BEGIN {print ($exact + $few) / 2e9}")"
    not "and nothing is said" grep -q '^  --moments int8' cuda.out
else
    skip "moments that would be faster" "built without nvcc"
fi
ok "the page draws, and loads nothing" grep -q '</svg>' plan.html
not "the page has no script and no address" grep -qE '<script|https?:|src=' plan.html
ok "rules for operators" "$moec" compile --model_id model --sequence_length 64 --runtime_ngpus 8 --constraint "experts: ep=2; attention: recompute=on"
shows "fix the degree" 'experts over 2,'
shows "and what is repeated" 'backward repeats [1-9]'
ok "--max_degree" "$moec" compile --model_id model --sequence_length 64 --runtime_ngpus 8 --max_degree 1
shows "bounds it" 'experts over 1,'
refused "a degree above the largest" 2 'max_degree' "$moec" compile --model_id model --sequence_length 64 --runtime_ngpus 8 --max_degree 2 --constraint "experts: ep=4"
ok "compile without a dataset chooses the batch" "$moec" compile --model_id model --sequence_length 64 --runtime_ngpus 48
shows "one sequence for each rank at least" '^step: 48 sequences of 64'
refused "compile needs a length" 2 'sequence_length' "$moec" compile --model_id model --runtime_ngpus 8
ok "train as in the example" timeout 120 $mpirun -np 8 "$moec" train --model_id model --dataset_path ./books_2k --plan_ngpus=4 --runtime_ngpus=8 --max_steps 1 --name example
ok "merge as in the example" "$moec" merge --ckpt_dir runs/example/checkpoints/last --output_fname merged
ok "export as in the example" "$moec" export --ckpt_dir runs/example/checkpoints/last --output exported
ok "the exported directory has a tokenizer" test -s exported/tokenizer.json
ok "it has config.json as it was" cmp exported/config.json model/config.json
ok "--run_mode compile trains nothing" "$moec" train --model-id model --dataset-path data --run-mode compile --name none
not "no run directory" test -e runs/none
echo '{"max_steps": 2, "lr": 0.001, "global-batch-size": 8}' >run.json
ok "a config file" train 1 file --config run.json --max_steps 1
if [ "$(losses file | wc -l)" = 1 ] && grep -q '"lr": 0.001' runs/file/options.json && grep -q '"global_batch_size": 8' runs/file/options.json; then
    passed "flags win over the file; options.json has what counts"
else
    failed "options.json" runs/file/options.json
fi
ok "options.json is a config file" train 1 again --config runs/file/options.json --name again
same_losses "and repeats the run" again file
ok "random weights" "$moec" init --model_id model --output initial --max_shard_size 100000
ok "in several files" test -s initial/model.safetensors.index.json
refused "init over a directory" 2 'initial: is there already' "$moec" init --model_id model --output initial
ok "the weights that training begins with" train 1 random --max_steps 2 --save_every -1
ok "train from the files" "$moec" train --model_id initial --dataset_path data --max_steps 2 --save_every -1 --name initial
same_losses "is the same" initial random
not "--save_every -1 writes no checkpoint" test -e runs/random/checkpoints/last
ok "bench ops --json" "$moec" bench ops --model_id model --sequence_length 32 --micro_batch_size 2 --json
shows "with every operator" '"name": "experts", "way": "bwd"'
shows "and the optimizer" '"name": "adamw", "way": "fwd"'
refused "bench ops past the positions of the model" 7 'sequence_length 300' "$moec" bench ops --model_id model --sequence_length 300
ok "compile writes a plan" "$moec" compile --model_id model --dataset_path data --runtime_ngpus 2 --global_batch_size 8 --expert_parallel 2 --plan plan.json
ok "train runs it" train 2 planned --plan plan.json --global_batch_size 8 --max_steps 2 --expert_parallel 2
ok "the run keeps the plan" cmp plan.json runs/planned/plan.json
ok "compile --json" "$moec" compile --model_id model --dataset_path data --json
shows "it is JSON" '^{'
shows "with the explanation" '"explanation": {"operators": \['
ok "inspect of a checkpoint" "$moec" inspect runs/example/checkpoints/last
ok "inspect of a model" "$moec" inspect exported
ok "train --json" train 1 as-json --max_steps 2 --global_batch_size 8 --json
if [ "$(grep -c '^{"step": ' as-json.out)" = 2 ]; then passed "one object per step"; else failed "one object per step" as-json.out; fi
# The bar: each picture of it starts with \r, fills the terminal but for its last column, and ends before other text.
pictures() { # FILE: one line per picture
    tr '\r' '\n' <"$1" | grep '/4 loss'
}
bar_is_right() { # NAME FILE COLUMNS
    local n odd
    n=$(pictures "$2" | wc -l)
    odd=$(pictures "$2" | awk -v columns="$3" 'length($0) != columns - 1' | wc -l)
    if [ "$n" = 4 ] && [ "$odd" = 0 ] && ! grep -q '^step [0-9]' "$2" &&
        [ "$(tr '\r' '\n' <"$2" | grep -c '^eval after step [24]\|^checkpoint runs')" = 3 ]; then
        passed "$1"
    else
        failed "$1: $n pictures, $odd of another width" "$2"
    fi
}
lines_are_right() { # NAME FILE
    if [ "$(grep -c '^step [1-4]/4 | ' "$2")" = 4 ] && ! pictures "$2" >/dev/null; then passed "$1"; else failed "$1" "$2"; fi
}
in_terminal() { # COLUMNS COMMAND... : its output as a terminal of that width gets it, in terminal.out
    timeout 120 script -qec "stty cols $1; ${*:2}" terminal.out </dev/null >/dev/null 2>&1
    rm -rf runs/bar
}
bar="--max_steps 4 --global_batch_size 8 --eval_every 2 --eval_sequences 8"
ok "--progress bar" train 2 bar $bar --progress bar
bar_is_right "a bar through mpirun and a pipe" bar.out 80
ok "--progress auto" train 2 bar $bar
lines_are_right "lines where no terminal is" bar.out
if command -v script >/dev/null; then
    b="$moec train --model_id model --dataset_path data --name bar $bar"
    rm -rf runs/bar
    in_terminal 100 "$b"
    bar_is_right "a bar at a terminal" terminal.out 100
    in_terminal 60 "$b"
    bar_is_right "a bar at a narrow terminal" terminal.out 60
    in_terminal 100 "$b --progress lines"
    lines_are_right "--progress lines at a terminal" terminal.out
    in_terminal 90 "$mpirun -np 2 $b --progress bar"
    bar_is_right "--progress bar at the terminal of mpirun" terminal.out "$(case $mpirun in *oversub*) echo 90 ;; *) echo 80 ;; esac)"
else
    skip "a bar at a terminal" "there is no script(1)"
fi
ok "eval --json" "$moec" eval --model_id exported --dataset_path data --json
shows "it has a loss" '^\{"loss": [0-9.]+, .*"bits_per_byte": [0-9.]+'

g="$moec generate --model_id exported --prompt int --max_new_tokens 12"
$g --seed 1 >g1 2>&1
$g --seed 1 >g2 2>&1
$g --seed 2 >g3 2>&1
$g --temperature 0 --seed 1 >g4 2>&1
$g --temperature 0 --seed 2 >g5 2>&1
$g --seed 1 --threads 1 --reproducible >g6 2>&1
$g --seed 1 --threads 2 --reproducible >g7 2>&1
ok "generate repeats the prompt" grep -q '^int' g1
ok "generate: the seed decides" cmp g1 g2
not "another seed, another text" cmp -s g1 g3
ok "temperature 0 has no chance" cmp g4 g5
ok "generate --reproducible: threads do not matter" cmp g6 g7
ok "generate --json" $g --json
shows "it counts tokens" '"new_tokens": '
finish

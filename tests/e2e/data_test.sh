#!/bin/bash
# prepare, inspect and tokenize: the same bytes whatever the threads and the packing of the input.
. "$(dirname "$0")/lib.sh"
make_tokenizer tokenizer 512
mkdir texts
for i in 1 2 3 4 5 6 7 8 9; do make_text texts/$i.txt $((i * 7000)) $((i * 9000)); done
: >texts/empty.txt
p="$moec prepare --tokenizer_path_or_name tokenizer --sequence_length 64"
for threads in 1 2 7; do
    ok "prepare with $threads threads" $p --data_path_or_name texts --save_path by-$threads --threads $threads
done
for threads in 2 7; do
    ok "$threads threads: same tokens" cmp by-1/tokens.bin by-$threads/tokens.bin
    ok "$threads threads: same description" cmp by-1/dataset.json by-$threads/dataset.json
done
ok "a sequence" "$moec" inspect by-1 --sequence 17
shows "it names its file" 'texts/[0-9].txt'
refused "a sequence that is not there" 2 'sequence' "$moec" inspect by-1 --sequence 100000000
ok "inspect without a sequence" "$moec" inspect by-1
ok "verify of a dataset" "$moec" verify by-1
cp -r by-1 damaged
printf '\001' | dd of=damaged/tokens.bin bs=1 seek=402 conv=notrunc status=none
not "verify of a damaged one" "$moec" verify damaged
refused "a dataset that is there stays" 2 'overwrite|exists|already' $p --data_path_or_name texts --save_path by-1
ok "--overwrite replaces it" $p --data_path_or_name texts --save_path by-1 --overwrite
ok "with the same" cmp by-1/tokens.bin by-2/tokens.bin

# gzip comes with Debian; zstd may not.
mkdir packed
for i in 1 2 3 4 5 6 7 8 9; do gzip -c texts/$i.txt >packed/$i.txt.gz; done
: >packed/empty.txt
ok "prepare of .gz" $p --data_path_or_name packed --save_path gz
ok "same tokens" cmp gz/tokens.bin by-2/tokens.bin
if command -v zstd >/dev/null; then
    mkdir zst && for i in 1 2 3 4 5 6 7 8 9; do zstd -q texts/$i.txt -o zst/$i.txt.zst; done
    : >zst/empty.txt
    ok "prepare of .zst" $p --data_path_or_name zst --save_path zs
    ok "same tokens as plain" cmp zs/tokens.bin by-2/tokens.bin
else
    skip "prepare of .zst" "no zstd program"
fi
for i in 1 2 3 4 5 6 7 8 9; do
    printf '{"n": %d, "text": "' $i
    sed -e 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g; s/\r/\\r/g; s/\f/\\f/g' texts/$i.txt | awk '{ printf "%s%s", (NR > 1 ? "\\n" : ""), $0 }'
    [ "$(tail -c 1 texts/$i.txt)" ] || printf '\\n'
    printf '"}\n'
done >lines.jsonl
mkdir full && cp texts/[1-9].txt full
ok "prepare without the empty file" $p --data_path_or_name full --save_path plain
ok "prepare of .jsonl" $p --data_path_or_name lines.jsonl --save_path jl
ok "same tokens as .txt" cmp jl/tokens.bin plain/tokens.bin
$p --data_path_or_name - --save_path stdin <lines.jsonl >log 2>&1
ok "standard input: same tokens" cmp stdin/tokens.bin jl/tokens.bin

ok "tokenize" sh -c "'$moec' tokenize --tokenizer tokenizer <texts/3.txt >ids"
ok "--decode gives the text back" sh -c "'$moec' tokenize --tokenizer tokenizer --decode <ids >back && cmp back texts/3.txt"
ok "tokenizer train is deterministic" "$moec" tokenizer train --data_path_or_name text.txt --vocab_size 512 --save_path tokenizer2
ok "same tokenizer.json" cmp tokenizer/tokenizer.json tokenizer2/tokenizer.json
finish

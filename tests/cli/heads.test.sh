#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# heads: the table that it writes, what the policy duo makes of it, and what can go wrong.
. "${srcdir:-.}/tests/cli/lib.sh"

cd "$tmp" || exit 99
head -c 1000 /dev/zero | tr '\0' x >text
# Each position that a head drops costs its price; with the start token 1001 are cached.
heads() {
	kvmod heads -o 'engine fake.replay=yes' "$@"
}

# --- the table --------------------------------------------------------------------------

heads -f text
exits 0
sed 's/in [0-9]* s$/in N s/' "$tmp/err" >"$tmp/words" && mv "$tmp/words" "$tmp/err"
err <<'END'
8 heads, measured on 1001 tokens of 1 text in N s
with retrieval = 0.50 a prediction loses 5.5300 nats
with retrieval = 0.25 a prediction loses 11.6130 nats
with retrieval = 0.00 a prediction loses 19.9080 nats
END
sed 's/^\(# Measured by kvmod\) [0-9.]*/\1 VERSION/' "$tmp/out" >"$tmp/words" && mv "$tmp/words" "$tmp/out"
cp "$tmp/out" whole
out <<'END'
kvmod-heads 1
# The head table of a model, for the policy duo: see kvmod-policies(7).
# Measured by kvmod VERSION on 1 text, 1001 tokens in all, of which 64 are compared.
# With retrieval = 0.50 a prediction loses 5.5300 nats.
# With retrieval = 0.25 a prediction loses 11.6130 nats.
# With retrieval = 0.00 a prediction loses 19.9080 nats.
model = Echo
architecture = fake
layers = 4
kv_heads = 2

# The loss in nats if this KV head alone keeps only 128 sinks and 256 recent positions
0: 2.212 1.659
1: 1.106 0.553
2: 4.424 3.871
3: 3.318 2.765
END

# Other sinks, recent positions and rows; the mean of several texts.
head -c 500 text >half
heads --json -f text -f half --sinks 10 --recent 20 --rows 5
exits 0
: | err
json --only model=Echo architecture=fake layers=4 kv_heads=2 texts=2 tokens=1502 rows=10 sinks=10 \
	recent=20 seconds:real losses.0.retrieval=0.5 losses.0.loss=7.16 losses.1.retrieval=0.25 \
	losses.1.loss=15.036 losses.2.retrieval=0 losses.2.loss=25.776 scores.0.0=2.864 \
	scores.0.1=2.148 scores.1.0=1.432 scores.1.1=0.716 scores.2.0=5.728 scores.2.1=5.012 \
	scores.3.0=4.296 scores.3.1=3.58

# Texts of its own, as long as it was told: the same for the same seed.
heads --json --texts 2 --length 4000 --sinks 4 --recent 8
exits 0
cp "$tmp/out" first
tokens=$(sed 's/.*"tokens": \([0-9]*\).*/\1/' first)
rows=$(sed 's/.*"rows": \([0-9]*\).*/\1/' first)
[ "$tokens" -le 8000 ] && [ "$tokens" -gt 7600 ] || fail "two texts of $tokens tokens"
[ "$rows" -gt 600 ] && [ "$rows" -lt 1000 ] || fail "passkeys of $rows tokens"
heads --json --texts 2 --length 4000 --sinks 4 --recent 8
same_but_time() {
	sed 's/"seconds": [^,]*//' "$1" >a
	sed 's/"seconds": [^,]*//' "$2" >b
	cmp -s a b
}
same_but_time first "$tmp/out" || fail 'another answer the second time'
heads --json --texts 2 --length 4000 --sinks 4 --recent 8 --seed 1
same_but_time first "$tmp/out" && fail 'the same texts for another seed'
heads --json --texts 1 --raw --length 3000
exits 0
tokens=$(sed 's/.*"tokens": \([0-9]*\).*/\1/' "$tmp/out")
[ "$tokens" -le 3000 ] && [ "$tokens" -gt 2800 ] || fail "a text of $tokens tokens"

# --- no table without all of its scores -----------------------------------------------------

heads -f text -o 'engine fake.replay=fails'
says 1 'kvmod: engine fake: no memory to replay 64 tokens'
heads -f text -o 'engine fake.replay=nan'
says 1 'kvmod: engine fake: replay() answered nan, expected a finite number'
heads -f text -o 'engine fake.replay=no'
says 1 'kvmod: engine fake cannot run tokens again over a part of the cache, which is how heads are measured'
if [ -w /dev/full ]; then
	try sh -c "'$build/kvmod' heads -o 'engine fake.replay=yes' -f text >/dev/full"
	exits 1
	grep -qx 'kvmod: standard output: No space left on device' "$tmp/err" || fail 'no reason'
fi

# Ctrl-C while it reads the text, and while it measures.
head -c 50 text >short
stops_at() {
	rm -f notes
	"$build/kvmod" heads -o 'engine fake.replay=yes' -o 'engine fake.delay=300' \
		-o "engine fake.notes=$tmp/notes" --sinks 1 --recent 1 --rows 1 -f short \
		 >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	until grep -qs "^$1" notes || ! kill -0 $pid; do
		sleep 0.01
	done
	kill -INT $pid
	wait $pid
	status=$?
	says 1 'kvmod: stopped on request: there is no table'
}
stops_at prompt
stops_at replay

# --- the policy duo reads it ------------------------------------------------------------------

kvmod run --policy duo -o "policy duo.heads=$tmp/whole" -n 1 -f text
exits 0
sed -n 1,2p "$tmp/err" >"$tmp/words" && mv "$tmp/words" "$tmp/err"
err <<'END'
policy   duo on cpu: budget 0.6914
kept     layers  0..: 384 384 1003 1003
END
# A table of another model: one line, before anything is run.
kvmod run --policy duo -n 1 hello
exits 1
: | out
grep -q 'kvmod: policy duo: .*/heads/SmolLM2-135M-Instruct.heads:[0-9]*: `model = .*`: expected model = Echo, as in the model in use (`kvmod heads` makes its table)$' "$tmp/err" ||
	fail "another message: $(cat "$tmp/err")"
kvmod run --policy duo -o 'policy duo.heads=' -n 1 hello
says 1 'kvmod: policy duo: `heads` names no head table: `kvmod heads` makes one for the model'
# check tries the policy with a made-up model, whose table it cannot be, and with the engine's.
kvmod check --policy duo -o "policy duo.heads=$tmp/whole"
exits 0
kvmod check --policy duo
exits 1
has 'fine   policy duo'
has 'failed engine fake: policy duo: '

# --- mistakes on the command line ---------------------------------------------------------------

heads text
says 2 'kvmod: `text`: expected no operand; a text comes with -f (see `kvmod heads --help`)'
heads --texts 0
says 2 'kvmod: --texts=0: expected 1 to 64 (see `kvmod heads --help`)'
heads --rows 513
says 2 'kvmod: --rows=513: expected at most 512 (see `kvmod heads --help`)'
heads --length 1000000000
says 2 'kvmod: --length=1000000000: expected at most 16777216 (see `kvmod heads --help`)'
heads --sinks 99999999
says 2 'kvmod: --sinks=99999999: expected at most 16777216 (see `kvmod heads --help`)'
heads -f half --rows 117
says 1 'kvmod: text 1 has 501 tokens: expected more than 501 (128 sinks, 256 recent ones, and the last 117, which are compared)'
heads -f no-such-text
says 1 'kvmod: no-such-text: No such file or directory'
heads -o 'engine fake.context=900' -f text
says 1 'kvmod: 1001 new and 0 cached tokens exceed the context of 900'

# --- real models, if there is an engine for them -------------------------------------------------

if [ -f "$build/.libs/ggml.so" ]; then
	"$build/tests/random_model" --shape tiny --type f32 tiny.gguf || fail 'no model'
	case $srcdir in /*) ;; *) srcdir=$build/$srcdir ;; esac
	head -c 600 "$srcdir/conf/examples/saltmere.txt" >text
	real() {
		kvmod "$@" -o kvmod.engine=ggml -o 'engine ggml.threads=1' -m tiny.gguf
		exits 0
	}
	real heads --json --sinks 2 --recent 8 --rows 16 -f text
	cp "$tmp/out" first
	real heads --json --sinks 2 --recent 8 --rows 16 -f text
	same_but_time first "$tmp/out" || fail 'another answer the second time'
	sed 's/.*"scores"//' first | grep -q '[1-9]' || fail "no head loses anything: $(cat first)"
	# Another table, so that it shows which heads are whole: 0 and 1 of layers 1 and 3, 1 of layer 2.
	cat >table <<'END'
kvmod-heads 1
model = tiny
architecture = llama
layers = 4
kv_heads = 2
0: 0 0
1: 1 1
2: 0 1
3: 1 2
END
	duo() {
		real run --raw --policy duo -n 21 -o "policy duo.heads=$tmp/table" \
			-o 'policy duo.retrieval=5' -o 'policy duo.sinks=2' -o 'policy duo.recent=8' \
			-o 'policy duo.decode_every=4' -o "engine ggml.cache_type=$type" "$@"
	}
	kept() {
		for at in 0.0=10 0.1=10 1.0=$2 1.1=$2 2.0=10 2.1=$2 3.0=$2 3.1=$2; do
			echo "$1.$at"
		done
	}
	# The bytes of K and V of a position in one head; 828 tokens, of which 20 follow a question.
	for type in f32:512 f16:256 q8_0:136; do
		bytes=${type#*:} type=${type%:*}
		# Cut after the prompt, and after each fourth of 20 decoded tokens.
		duo --json -f text
		json prompt_tokens=828 decode_cuts=5 $(kept kept 848) \
			cache_bytes=$(((3 * 10 + 5 * 848) * bytes)) cache_bytes_full=$((8 * 848 * bytes))
		# All heads whole: the full cache, bit by bit.
		duo --json --compare -f text -o 'policy duo.retrieval=100%'
		json cache_bytes=$((8 * 828 * bytes)) kl_mean=0 kl_max=0 agree=1
		# A context, then a question of 6 tokens.
		duo --json --context text 'one'
		json prompt_tokens=6 decode_cuts=5 $(kept context.kept 828) $(kept kept 854) \
			cache_bytes=$(((3 * 10 + 5 * 854) * bytes))
		# 833 tokens; then a second turn of 16, one of which the first turn left.
		duo -i <<END
$(tr '\n' ' ' <text)
And then?
END
		grep '^kept' "$tmp/err" >"$tmp/words"
		diff - "$tmp/words" <<'END' || fail "$type: another second turn"
kept     layers  0..: 10 853 10-853 853
kept     layers  0..: 10 889 10-889 889
END
	done
fi
# The table that is installed is the default model's.
case $(sed -n 's/^DEFAULT_MODEL = //p' "$build/Makefile") in
*/SmolLM2-135M-Instruct*)
	kvmod check --policy duo -o kvmod.engine=ggml
	exits 0
	has 'fine   engine ggml'
	;;
esac

finish

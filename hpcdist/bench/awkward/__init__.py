"""Numbers of ranks that are no power of two: which algorithm is the fastest there, and which the price model expects.

    hpcdist cluster up --hosts 12 --rate 200mbit
    for p in 3 5 6 7 12; do
        hpcdist cluster run -n $p -- python -m hpcdist.bench.awkward --out awkward/200mbit-$p.json
    done
    python -m hpcdist.bench.awkward.table awkward/*.json

Binary blocks are said to be for such numbers; the table says where they win. `measure` runs on the ranks and writes a
`record`, `table` puts records together.
"""

"""What hpcdist does beside what others do, as reports that are kept whatever comes: `hpcdist bench VERB`.

    hpcdist bench node
    hpcdist bench algorithms --hosts 5,6,7,8
    hpcdist bench commits --old COMMIT
    hpcdist bench overlap --ranks 2 --hosts 2,4
    hpcdist bench table --out results/bench

Machines are noisy: cases take turns, in an order that is rotated and reversed, and what counts is the median of the
rounds' ratios. What runs in one process is paired sample by sample; across libraries whole jobs are interleaved.

All verbs have in common: `command`, their list; `options`; `saved`, reports of parts with rows; `draft`, one in the
making; `page`, its text; `curves`, its figures; `start` and `processes`, which start jobs on this machine or on virtual
hosts.

Ours beside the libraries: `node`, `network`, `algorithms`, `halves`, `addresses` and `commits` are the parts of one
report, `every` all of them. `beside` and `peers` are the libraries, each in an environment of its own; `rounds`
interleaves their jobs; `task` is what a job is told, `ranks` what the ranks of an MPI do with it, `values`, `cases` and
`links` its parts, `alone` the same without this package, and what both share; `tuning` makes the tables that "auto"
reads, and judges them; `record` holds results, `ratios` compares them, `compare` says what is told of a size, and
`table`, `by_algorithm`, `cells` and `figure` tell it.

Reports of ranks of this environment, which `jobs` starts: `overlap`, `overhead`, `checkpoints` and `gpu`, each with its
`report`, the command and its text, and its `ranks`; `findings` is what those write, `sampling` their samples. `crash`
kills training runs.
"""

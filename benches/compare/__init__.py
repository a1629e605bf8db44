"""What scripts/compare is made of; docs/compare.md says what it does and why.

peers.py      what is compared, and how each is got, built, started and reached
workloads.py  what each peer is asked to do, and which figure counts
check.py      delivers each peer rightly? small clients that look
processes.py  children: pinned, waited for, ended
report.py     medians, ratios, the table, the plot
"""

"""What scripts/soak is made of; docs/soak.md says what it does and why.

run.py      the hour: the server, the mix in slices, what happens beside it, the rest at the end
trouble.py  clients that are reset in the middle, stall, come back, and name new rooms all the time
samples.py  what is read of the server and the machine every few seconds; the columns of the tables
judge.py    what is held against these tables, and the verdict
plot.py     the picture
"""

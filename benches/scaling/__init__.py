"""The parts of scripts/scaling: what cores, connections, rooms and heartbeats cost as they become more.

loads.py says what is measured and how one run of it goes, report.py makes of it medians, tables and plots. Processes, CPU time and the reading
of `starling bench` are those of the comparison.
"""

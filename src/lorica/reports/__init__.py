"""Reports for people: writes what it is given, computes nothing.

page.py      data types: Report, Section, Table, IntervalPlot, LineChart
table.py     tables for a terminal
markdown.py  a report as Markdown
html.py      a report as one HTML file that needs no network (charts.py: its SVG; style.py: its CSS)
write.py     write_report: by suffix, whole or not at all
"""

"""Reports for people: writes what it is given, computes nothing.

page.py          data types: Report, Section, ReportTable, IntervalPlot, LineChart
text_table.py    tables for a terminal
markdown.py      a report as Markdown
html.py          a report as one HTML file that needs no network (charts.py: its SVG; style.py: its CSS)
interactive.py   the script of tables that are searched, filtered, sorted and opened
page_size.py     keeps a page within its bytes
short_names.py   many names in little room
write_report.py  by suffix, whole or not at all
"""

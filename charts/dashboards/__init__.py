"""The Grafana dashboards of the chart, written in Python and checked in as JSON."""

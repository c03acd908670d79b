"""The study: experiments as data, their runs, tables, claims and figures."""

"""What one part of a data set knows about another: rows, groups, moments and statistics that cross over.

`search` asks the questions, one module each answers them: `rows` and `texts` (with the yardstick of
`neighbours`), `order`, `fitting`; `parts` reads what is given, `report` says what was found.
"""

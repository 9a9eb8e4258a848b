"""The game of Go: rules, records in SGF, and the inputs of KataGo's networks."""

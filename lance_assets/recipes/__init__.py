"""The methods, one file each: a module that has `RECIPE` is one (`contract.Recipe`), and `registry` finds it."""

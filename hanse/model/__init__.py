"""The words of the league as frozen types: one idea a file, parse() in, str() out. No I/O and no clock."""

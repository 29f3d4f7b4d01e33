"""Leap years, wrongly: a century is one only if 400 divides it."""


def is_leap(year: int) -> bool:
    return year % 4 == 0

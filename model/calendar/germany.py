"""Holidays of Germany and its Länder, by the holiday act of each Land."""

from __future__ import annotations

from model.calendar.dates import WED
from model.calendar.rules import Calendar, Rule, easter, fixed, from_date, once

NATIONAL = (
    fixed("Neujahr", 1, 1),
    easter("Karfreitag", -2),
    easter("Ostermontag", 1),
    fixed("Tag der Arbeit", 5, 1),
    easter("Christi Himmelfahrt", 39),
    easter("Pfingstmontag", 50),
    fixed("Tag der Deutschen Einheit", 10, 3, since=1990),
    once("Reformationstag", 2017, 10, 31),
    fixed("Erster Weihnachtstag", 12, 25),
    fixed("Zweiter Weihnachtstag", 12, 26),
)
EPIPHANY = fixed("Heilige Drei Könige", 1, 6)
CORPUS_CHRISTI = easter("Fronleichnam", 60)
ASSUMPTION = fixed("Mariä Himmelfahrt", 8, 15)
REFORMATION = fixed("Reformationstag", 10, 31)
REFORMATION_NORTH = fixed("Reformationstag", 10, 31, since=2018)
ALL_SAINTS = fixed("Allerheiligen", 11, 1)

LAENDER: dict[str, tuple[Rule, ...]] = {
    "BB": (easter("Ostersonntag", 0), easter("Pfingstsonntag", 49), REFORMATION),
    "BE": (
        fixed("Internationaler Frauentag", 3, 8, since=2019),
        once("Tag der Befreiung", 2020, 5, 8),
        once("Tag der Befreiung", 2025, 5, 8),
    ),
    "BW": (EPIPHANY, CORPUS_CHRISTI, ALL_SAINTS),
    # Mariä Himmelfahrt is a holiday where more Catholics than Protestants live: in five of six municipalities.
    "BY": (EPIPHANY, CORPUS_CHRISTI, ASSUMPTION, ALL_SAINTS),
    "HB": (REFORMATION_NORTH,),
    "HE": (CORPUS_CHRISTI,),
    "HH": (REFORMATION_NORTH,),
    "MV": (fixed("Internationaler Frauentag", 3, 8, since=2023), REFORMATION),
    "NI": (REFORMATION_NORTH,),
    "NW": (CORPUS_CHRISTI, ALL_SAINTS),
    "RP": (CORPUS_CHRISTI, ALL_SAINTS),
    "SH": (REFORMATION_NORTH,),
    "SL": (CORPUS_CHRISTI, ASSUMPTION, ALL_SAINTS),
    "SN": (REFORMATION, from_date("Buß- und Bettag", 11, 16, WED)),  # the Wednesday before November 23
    "ST": (EPIPHANY, REFORMATION),
    "TH": (fixed("Weltkindertag", 9, 20, since=2019), REFORMATION),
}
GERMANY = {"DE": Calendar(NATIONAL)} | {f"DE-{land}": Calendar(NATIONAL + own) for land, own in LAENDER.items()}

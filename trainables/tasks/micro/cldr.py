"""Text of Unicode CLDR in each language of XTREME-R: names, quantities, dates, relative times, lists.

Babel ships CLDR and merges every locale with its parents, so a locale without data silently answers in another language
(Haitian Creole in French). A benchmark must not do that: this module reads each locale's unmerged file, leaves out what the
file lacks, and reports it in `coverage`.
"""

from __future__ import annotations

import datetime
import pickle
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import babel
from babel import Locale, dates, localedata

GENERATOR_VERSION = 1  # raised when the same CLDR data give other examples or other pre-training text
DATA_REVISION = f"micro{GENERATOR_VERSION}-cldr-of-babel-{babel.__version__}"

# The 50 languages of XTREME-R (Ruder et al. 2021, table 9). CLDR files Tagalog under Filipino.
XTREME_R_LANGUAGES = tuple(
    "af ar az bg bn de el en es et eu fa fi fr gu he hi ht hu id it ja jv ka kk ko lt ml mr ms my nl pa pl pt qu ro ru "
    "sw ta te th tl tr uk ur vi wo yo zh".split()
)
_LOCALE = {"tl": "fil"}

Width = Literal["long", "short"]
Category = Literal["territory", "language", "currency", "quantity", "date", "relative"]
CATEGORIES: tuple[Category, ...] = ("territory", "language", "currency", "quantity", "date", "relative")

UNITS = tuple(
    "area-acre area-hectare area-square-kilometer area-square-meter digital-byte digital-gigabyte digital-kilobyte "
    "digital-megabyte duration-day duration-hour duration-minute duration-month duration-second duration-week "
    "duration-year electric-ampere electric-volt energy-calorie energy-joule frequency-hertz length-centimeter "
    "length-foot length-inch length-kilometer length-light-year length-meter length-mile length-millimeter length-yard "
    "mass-carat mass-gram mass-kilogram mass-milligram mass-ounce mass-pound power-horsepower power-kilowatt power-watt "
    "pressure-hectopascal temperature-celsius volume-bushel volume-cup volume-gallon volume-liter volume-milliliter "
    "volume-teaspoon".split()
)
FIELDS = ("year", "month", "week", "day", "hour", "minute")  # of relative times
NUMBERS = tuple(range(2, 31))
_FIRST_DAY, _LAST_DAY = datetime.date(1990, 1, 1), datetime.date(2029, 12, 31)
_NOT_PLACES = frozenset({"EU", "EZ", "UN", "XA", "XB", "ZZ"})


@dataclass(frozen=True, order=True)
class Concept:
    """Something that every language can express: a place, a language, a currency, a quantity, a date, a relative time.

    `key` is the CLDR code for a name, (unit, number) for a quantity, (year, month, day) for a date, (field, offset) for a
    relative time.
    """

    category: Category
    key: tuple[str | int, ...]


@cache
def own_data(language: str) -> dict[str, Any]:
    """The locale's CLDR file as Babel ships it, without its parents' data; empty if there is no file.

    It is read directly because `localedata.load(..., merge_inherited=False)` leaves the unmerged data in Babel's cache, which
    breaks every later call for that locale.
    """
    try:
        with open(localedata.resolve_locale_filename(_LOCALE.get(language, language)), "rb") as file:
            data: dict[str, Any] = pickle.load(file)
            return data
    except FileNotFoundError:
        return {}


class Phrasebook:
    """Writes concepts in one language; `None` means that the locale has no words for it."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._own = own_data(language)
        self._locale = Locale.parse(_LOCALE.get(language, language))
        self._list_pattern = self._own_list_pattern()

    def write(self, concept: Concept, width: Width = "long") -> str | None:
        """The concept in this language. `width` selects "3 kilometers" or "3 km"; names have one width."""
        match concept.category:
            case "territory":
                return self._name("territories", concept.key[0])
            case "language":
                return self._name("languages", concept.key[0])
            case "currency":
                return self._name("currency_names", concept.key[0])
            case "quantity":
                return self._quantity(str(concept.key[0]), int(concept.key[1]), width)
            case "date":
                return self._date(datetime.date(*(int(part) for part in concept.key)), width)
            case "relative":
                return self._relative(str(concept.key[0]), int(concept.key[1]), width)

    def join(self, parts: list[str]) -> tuple[str, list[int]] | None:
        """The parts as a list in this language ("a, b and c"), and the offset of each part; None without list patterns."""
        if self._list_pattern is None or len(parts) < 2:
            return None
        start, middle, end, two = self._list_pattern
        glue = [two] if len(parts) == 2 else [start, *[middle] * (len(parts) - 3), end]
        text, offsets = parts[0], [0]
        for pattern, part in zip(glue, parts[1:], strict=True):
            before, between, after = _split_pattern(pattern)
            offsets = [offset + len(before) for offset in offsets]
            offsets.append(len(before) + len(text) + len(between))
            text = before + text + between + part + after
        return text, offsets

    def month(self, number: int) -> str | None:
        """The stand-alone name of month 1 to 12."""
        return self._calendar_name("months", number)

    def weekday(self, number: int) -> str | None:
        """The stand-alone name of weekday 0 (Monday) to 6 (Sunday)."""
        return self._calendar_name("days", number)

    def _name(self, table: str, code: str | int) -> str | None:
        name = self._own.get(table, {}).get(code)
        return None if name is None or name == code else str(name)

    def _calendar_name(self, table: str, number: int) -> str | None:
        contexts = self._own.get(table, {})
        for context in ("stand-alone", "format"):
            names = contexts.get(context, {}).get("wide", {}) if isinstance(contexts.get(context, {}), dict) else {}
            if isinstance(names, dict) and number in names:
                return str(names[number])
        return None

    def _quantity(self, unit: str, number: int, width: Width) -> str | None:
        patterns = self._own.get("unit_patterns", {}).get(unit, {})
        # In CLDR's root the long form inherits from the short one: zh has only "{0}公里". Many long forms have only
        # "{0} per day", so a width is used only if it can be filled.
        for form in (width, "short" if width == "long" else "long"):
            if (text := self._fill(patterns.get(form), number)) is not None:
                return text
        return None

    def _relative(self, field: str, offset: int, width: Width) -> str | None:
        fields = self._own.get("date_fields", {})
        direction = "future" if offset > 0 else "past"
        for key in (f"{field}-short", field) if width == "short" else (field,):
            entry = fields.get(key)
            forms = entry.get(direction) if isinstance(entry, dict) else None
            if forms and (text := self._fill(forms, abs(offset))) is not None:
                return text
        return None

    def _fill(self, forms: object, number: int) -> str | None:
        if not isinstance(forms, dict):
            return None
        pattern = forms.get(self._locale.plural_form(number)) or forms.get("other")
        return pattern.replace("{0}", str(number)) if isinstance(pattern, str) and "{0}" in pattern else None

    def _date(self, day: datetime.date, width: Width) -> str | None:
        if self.month(day.month) is None or "date_formats" not in self._own:
            return None
        try:
            return dates.format_date(day, "long" if width == "long" else "medium", locale=self._locale)
        except (KeyError, AttributeError):  # the locale lacks the month or day names of its pattern
            return None

    def _own_list_pattern(self) -> tuple[str, str, str, str] | None:
        own = self._own.get("list_patterns", {})
        standard = own.get("standard", {}) if isinstance(own, dict) else {}
        if not isinstance(standard, dict) or not {"end", "2"} & set(standard):
            return None  # only the root's language-neutral "a, b, c"
        merged = self._locale.list_patterns["standard"]
        return merged["start"], merged["middle"], merged["end"], merged["2"]


@cache
def phrasebook(language: str) -> Phrasebook | None:
    """The language's phrasebook; None if its locale has no names (`ht`)."""
    if not own_data(language).get("territories") or language not in XTREME_R_LANGUAGES:
        return None
    return Phrasebook(language)


@cache
def languages() -> tuple[str, ...]:
    """The covered languages of XTREME-R: those with list patterns and at least half of every category."""
    return tuple(
        language
        for language in XTREME_R_LANGUAGES
        if (book := phrasebook(language)) is not None
        and book.join(["a", "b"]) is not None
        and min(coverage(language).values()) >= 0.5
    )


@cache
def coverage(language: str) -> dict[str, float]:
    """Share (0 to 1) of each category's concepts that the locale has words for."""
    book = phrasebook(language)
    shares: dict[str, float] = {}
    for category in CATEGORIES:
        candidates = [concept for concept in _candidates() if concept.category == category]
        written = sum(book.write(concept) is not None for concept in candidates) if book else 0
        shares[category] = written / len(candidates)
    return shares


@cache
def concepts() -> tuple[Concept, ...]:
    """Every concept that at least 80% of the covered languages can write, in a fixed order."""
    books = [book for language in languages() if (book := phrasebook(language)) is not None]
    names = [
        concept
        for concept in _candidates()
        if concept.category in ("territory", "language", "currency")
        and sum(book.write(concept) is not None for book in books) >= 0.8 * len(books)
    ]
    units = [
        unit
        for unit in UNITS
        if sum(book.write(Concept("quantity", (unit, 2))) is not None for book in books) >= 0.8 * len(books)
    ]
    quantities = [Concept("quantity", (unit, number)) for unit in units for number in NUMBERS]
    times = [Concept("relative", (field, sign * number)) for field in FIELDS for number in NUMBERS for sign in (1, -1)]
    days = (_LAST_DAY - _FIRST_DAY).days + 1
    dates_ = [_date_concept(_FIRST_DAY + datetime.timedelta(days=offset)) for offset in range(0, days, 7)]
    return tuple(names + quantities + dates_ + times)


@cache
def _candidates() -> tuple[Concept, ...]:
    """The concepts that `coverage` counts: English CLDR's names, and a sample of each unit, month and relative field."""
    english = own_data("en")
    candidates: list[Concept] = []
    candidates += [
        Concept("territory", (code,))
        for code in sorted(english["territories"])
        if len(code) == 2 and code.isalpha() and code not in _NOT_PLACES
    ]
    living = own_data("de")["languages"]  # a second locale's list drops codes that only English names
    candidates += [
        Concept("language", (code,)) for code in sorted(english["languages"]) if len(code) == 2 and code in living
    ]
    candidates += [
        Concept("currency", (code,)) for code in sorted(english["currency_names"]) if code in _MODERN_CURRENCIES
    ]
    candidates += [Concept("quantity", (unit, 3)) for unit in UNITS]
    candidates += [Concept("date", (2021, month, 4)) for month in range(1, 13)]
    candidates += [Concept("relative", (field, sign * 3)) for field in FIELDS for sign in (1, -1)]
    return tuple(candidates)


# ISO 4217 codes in use; CLDR also names about 150 historical currencies, which most locales do not translate.
_MODERN_CURRENCIES = frozenset(
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP "
    "CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR "
    "ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT "
    "MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD "
    "SCR SDG SEK SGD SHP SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST "
    "XAF XCD XOF XPF YER ZAR ZMW".split()
)


def _date_concept(day: datetime.date) -> Concept:
    return Concept("date", (day.year, day.month, day.day))


def _split_pattern(pattern: str) -> tuple[str, str, str]:
    before, rest = pattern.split("{0}")
    between, after = rest.split("{1}")
    return before, between, after

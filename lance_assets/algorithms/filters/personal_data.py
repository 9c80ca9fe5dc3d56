"""Personal data that has a form: addresses of mail, telephone numbers, card and account numbers, and the like.

A form alone is not enough, since problems are full of numbers. So each find is checked by what the number's own
standard says: telephone numbers by phonenumbers (Google's tables of every country's plan), cards and accounts by their
check digits, and addresses of the internet by who may use them. What standards keep for examples (example.com,
555-0100) is nobody's.

Names, postal addresses and dates of birth have no form. They are not found here: that takes a model that reads, such as
Presidio's with spaCy, and a person who looks.

Source of the rules: RFC 2606 (domains for examples), ISO/IEC 7812 (Luhn), ISO 13616 (IBAN), SSA (social security
numbers that were never given).

Presidio (presidio-analyzer 2.2.366) was measured (docs/filters.md): its pattern recognizers bring spaCy with them, many
times the size of phonenumbers.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lance_assets.algorithms.filters.contract import Candidate, RowFilter, list_written
from lance_assets.extras import import_extra

Kind = Literal["email", "phone", "card", "iban", "ip_address", "us_ssn"]
"""What is looked for."""
KINDS: tuple[Kind, ...] = ("email", "phone", "card", "iban", "ip_address", "us_ssn")

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@((?:[a-z0-9-]+\.)+[a-z]{2,24})\b", re.I)
_EXAMPLE_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.\w+)?|test|invalid|localhost|local)\Z|(?:^|\.)example\.", re.I)
_DIGITS = re.compile(r"(?<![\w.,-])(?:\d[ -]?){12,18}\d(?![\w-]|[.,]\d)")
_CARD = re.compile(r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
                   r"|3[47]\d{13}|6(?:011|5\d\d)\d{12}|35\d{14}|62\d{14,17}|3(?:0[0-5]|[68]\d)\d{11})")  # fmt: skip
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-f]{1,4}:){2,7}[0-9a-f:]{1,24})(?![\w:]|\.\d)", re.I)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_NEVER_GIVEN = {"078-05-1120", "219-09-9999", "123-45-6789"}
"""Social security numbers that were printed as examples, and belong to nobody."""


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it.

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    values = [int(digit) for digit in reversed(digits)]
    return sum(sum(divmod(2 * value, 10)) if place % 2 else value for place, value in enumerate(values)) % 10 == 0


def passes_mod97(account: str) -> bool:
    """Whether an IBAN has the check digits of the rest of it.

    >>> passes_mod97("GB82WEST12345698765432"), passes_mod97("GB83WEST12345698765432")
    (True, False)
    """
    turned = account[4:] + account[:4]
    return int("".join(str(int(sign, 36)) for sign in turned)) % 97 == 1


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def find_emails(text: str) -> Iterator[str]:
    """Addresses of mail, those of domains for examples left out."""
    return (found[0] for found in _EMAIL.finditer(text) if not _EXAMPLE_DOMAIN.search(found[1]))


def find_phones(text: str, regions: tuple[str, ...]) -> Iterator[str]:
    """Telephone numbers that somebody may have: international ones, and those written as in some regions.

    Raises:
        ValueError: phonenumbers is not installed.
    """
    if sum(map(str.isdigit, text)) < 7:
        return
    phonenumbers = import_extra("phonenumbers", extra="filters", needed_by="the filter personal_data")
    strict = phonenumbers.Leniency.VALID
    for region in (None, *regions):
        for found in phonenumbers.PhoneNumberMatcher(text, region, leniency=strict):
            # Ten digits in a row may be anything; a number that is meant to be dialled is written in groups, or with +.
            if re.search(r"^\+|\d[^\d]+\d", found.raw_string):
                yield found.raw_string


def find_personal_data(
    text: str, kinds: tuple[Kind, ...] = KINDS, regions: tuple[str, ...] = ()
) -> tuple[Kind, str] | None:
    """The first personal data of a text, with its kind; None where there is none.

    Args:
        text: what to look at.
        kinds: what is looked for, in this order.
        regions: ISO 3166 codes of the countries whose way of writing telephone numbers counts.

    Raises:
        ValueError: phonenumbers is not installed.

    >>> find_personal_data("Write to jo@uni.edu or to you@example.com."), find_personal_data("It costs 4111 1111.")
    (('email', 'jo@uni.edu'), None)
    """
    for kind in kinds:
        match kind:
            case "email":
                found: Iterator[str] = find_emails(text)
            case "phone":
                found = find_phones(text, regions)
            case "card":
                digits = ((one[0], re.sub(r"\D", "", one[0])) for one in _DIGITS.finditer(text))
                found = (said for said, plain in digits if _CARD.fullmatch(plain) and passes_luhn(plain))
            case "iban":
                said = (one[0] for one in _IBAN.finditer(text))
                found = (
                    one for one in said if 15 <= len(one.replace(" ", "")) <= 34 and passes_mod97(one.replace(" ", ""))
                )
            case "ip_address":
                found = (one[0] for one in _IP.finditer(text) if _is_public(one[0]))
            case "us_ssn":
                found = (one[0] for one in _SSN.finditer(text) if one[0] not in _NEVER_GIVEN)
        if (first := next(found, None)) is not None:
            return kind, first
    return None


class PersonalData(RowFilter):
    """Drops rows of which a written text has personal data: "personal_data:email" and so on, by the first kind."""

    libraries: ClassVar[tuple[str, ...]] = ("phonenumbers",)

    look_for: tuple[Kind, ...] = Field(
        KINDS, min_length=1, description="What is looked for; the order names the reason."
    )
    regions: tuple[str, ...] = Field(
        ("US",),
        description="Countries, such as [US, DE], whose own way of writing telephone numbers counts; +49 always does.",
    )

    @model_validator(mode="after")
    def _has_its_library(self) -> Self:
        if "phone" not in self.look_for:
            return self
        phonenumbers = import_extra("phonenumbers", extra="filters", needed_by="the filter personal_data")
        if unknown := sorted(set(self.regions) - phonenumbers.SUPPORTED_REGIONS):
            raise ValueError(f"there is no region {unknown[0]!r}; name countries by ISO 3166, as [US, DE]")
        return self

    def find_reason(self, row: Candidate) -> str | None:
        """Look at each written text."""
        found = (find_personal_data(text, self.look_for, self.regions) for text in list_written(row))
        return next((f"personal_data:{one[0]}" for one in found if one is not None), None)

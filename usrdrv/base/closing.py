# SPDX-License-Identifier: MIT
"""What has a close() works in a with statement."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Something to be given back with close(), which is idempotent."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

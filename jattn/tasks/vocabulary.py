"""Vocabularies of sentence tasks: single words, and classes of words that can stand for each other."""


def word_class(text: str) -> tuple[str, ...]:
    """Makes a class of the words of a text: ``"one two"`` becomes ``("one", "two")``."""
    return tuple(text.split())


class Vocabulary:
    """Numbers single words and the words of classes, in the order in which they are given.

    Args:
      singles: single words, with spaces between.
      classes: the words of each class; their numbers follow each other.

    Example:
      >>> from jattn.tasks.vocabulary import Vocabulary, word_class
      >>> animals = word_class("dog cat")
      >>> vocabulary = Vocabulary("the .", animals)
      >>> vocabulary.text, vocabulary.of("cat ."), vocabulary.first(animals)
      (('the', '.', 'dog', 'cat'), [3, 1], 2)
    """

    def __init__(self, singles: str, *classes: tuple[str, ...]) -> None:
        self.text = (*singles.split(), *(word for each in classes for word in each))
        self.number = {word: number for number, word in enumerate(self.text)}

    def of(self, text: str) -> list[int]:
        """Returns the number of each word of a text."""
        return [self.number[word] for word in text.split()]

    def first(self, words: tuple[str, ...]) -> int:
        """Returns the number of the first word of a class."""
        return self.number[words[0]]

"""Guess a number from 1 to 15, told how far it can be: an environment of one's own, whole."""

import re

from ipr.episode import Episode, Outcome, compose


class Guess(Episode):
    name, max_steps = "guess", 6
    prompt = "Guess a number. Answer: Thought: ... Action: <number>"
    splits = {"train": 60, "dev": 12, "seen": 12, "unseen": 12}

    def start(self, seed):
        self.secret, self.low, self.high = 1 + seed % 15, 1, 15
        return "Guess my number. It is from 1 to 15."

    def act(self, action):
        if action not in map(str, range(self.low, self.high + 1)):
            return None  # "Nothing happens."
        guess = int(action)
        if guess <= self.secret:
            self.low = guess + (guess < self.secret)
        if guess >= self.secret:
            self.high = guess - (guess > self.secret)
        return Outcome(f"It is from {self.low} to {self.high}.", float(guess == self.secret), guess == self.secret)

    def expert(self, conversation):  # sees what was said, nothing else
        low, high = map(int, re.findall(r"\d+", conversation[-1].content))
        return compose(f"It is from {low} to {high}, so I try the middle.", str((low + high) // 2))

    def value(self):  # the oracle: the chance to guess it now
        return 1 / (1 + self.high - self.low)


spec = Guess.spec

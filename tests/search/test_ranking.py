"""A ranking is what sorting would give, whatever came, changed and went."""

import random

from hpo.search.ranking import Ranking


def test_it_is_what_sorting_gives_whatever_came_changed_and_went():
    dice, ranking, keys = random.Random(0), Ranking(), {}
    for _ in range(2000):
        number = dice.randrange(40)
        key = dice.choice([None, (dice.randrange(5), -dice.randrange(3))])
        ranking.put(number, key)
        keys.pop(number, None)
        if key is not None:
            keys[number] = key
        wanted = sorted(keys, key=lambda number: (keys[number], number))
        assert list(ranking) == wanted
        assert len(ranking) == len(wanted)
        assert [ranking.place(number) for number in wanted] == list(range(len(wanted)))
        assert ranking.below((2, -1)) == sum(key < (2, -1) for key in keys.values())

"""Text of several kinds that is run through a base model to see which directions its activations use.

Written for this purpose, so that a check needs no file of the user's. What it is about hardly matters: the principal
directions of a model's activations are its own (bench/alignment.py measures other texts beside these).
"""

from __future__ import annotations

# A page is easier to read in lines as long as its sentences.
SAMPLE_TEXTS: tuple[str, ...] = (
    "The old woman walked slowly to the market, because her basket was heavy and the road was long. A boy saw her and "
    "asked whether he could help. She smiled and gave him the basket, and together they crossed the bridge. On the "
    "other side the wind was cold, and the first stalls were already closing.",
    "Water boils at a lower temperature on a mountain than at the coast: the air presses less on its surface, so that "
    "molecules leave it more easily. Cooks in high villages therefore boil their beans for longer, or close the pot "
    "with a heavy lid, which raises the pressure again.",
    "Please reply with your name and address before Friday to confirm the delivery. If nobody is at home, the parcel "
    "waits at the post office for 7 days. Questions? Call 0800 555 019 between 9 am and 5 pm. Reply STOP to end these "
    "messages. Win a free ticket: click here now!!!",
    "Rule: be kind to other members.\nPost: I think you are wrong about the match, but thanks for the long answer.\n"
    "Does the post break the rule? Answer Yes or No.",
    "Rule: no advertising.\nPost: Cheap watches, only today, follow the link in my profile and save 50%.\n"
    "Does the post break the rule? Answer Yes or No.",
    "Which of these is a mammal?\nA. trout\nB. sparrow\nC. dolphin\nD. lizard\nAnswer with the letter of the right "
    "option.",
    "def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError('a side is negative')\n"
    "    return width * height\n\n\nfor side in range(1, 4):\n    print(side, area(side, side + 1))\n",
    "In 1848 several governments of Europe fell within a few months. Historians disagree about the causes: bad "
    "harvests, the price of bread, new newspapers, and the wish of nations to have states of their own. Most of the "
    "new parliaments did not last, yet the idea that citizens should choose who governs them did.",
    "Honestly, I don't get why everyone hates this film. Sure, the plot makes no sense, and the ending... well. But "
    "the music! And that scene in the rain? I've watched it three times. What do you think?",
    "Ein Kind fragte seinen Vater, warum der Mond ihm folge. Der Vater lachte und sagte: Er folgt uns allen, und doch "
    "bleibt er, wo er ist.",
    "El tren sale a las ocho y media. Si llegas tarde, espera el siguiente; hay uno cada hora, salvo los domingos.",
    "The patient reported mild pain for two weeks, worse in the morning. No fever. Blood pressure 128/82. Advice: "
    "rest, fluids, and a second visit if the pain has not gone after ten days.",
    '{"name": "lamp", "price": 24.5, "colours": ["red", "white"], "stock": {"shop": 3, "store": 41}}',
    "To find the sum of the first n odd numbers, write them as dots in a square: 1, then 3 around it, then 5. Each "
    "step completes a larger square, so 1 + 3 + 5 + ... + (2n - 1) = n * n. For n = 6 this gives 36.",
    "The tenant shall return the keys on the last day of the lease. Damage beyond ordinary wear is charged to the "
    "deposit; the landlord states the amount in writing within 30 days.",
)

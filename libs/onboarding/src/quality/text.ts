// The text that a model is judged by before and after: fixed, plain and of several kinds, so that records can be compared.
// Written for this purpose; in the public domain (CC0-1.0).

export const JUDGED_TEXT = `The harbour lies on the north side of the island, where the cliffs keep out the wind. Boats leave early in the morning and come back before noon with cod, mackerel and, in good years, herring. Until the bridge was built the doctor came by ferry twice a week, and whoever fell ill on a Thursday had to wait until Monday. Today the road is open all year, although snow closes it for a few days every winter.

Water boils at a lower temperature on a mountain than at the sea, because the pressure of the air falls with height. At two thousand metres it boils at about ninety-three degrees Celsius, so an egg has to stay in the pot for longer. A lid that closes tightly has the opposite effect: the steam cannot leave, the pressure rises, and the food is cooked sooner.

To find the largest number in a list, look at the first one and remember it. Then go through the rest, one after the other. Whenever a number is larger than the one you remember, forget the old one and remember the new one. When you reach the end of the list, the number that you remember is the largest. The list is read once, so the time that it takes grows with its length and with nothing else.

"Did you lock the door?" she asked. He stopped on the stairs and tried to remember. He had put the keys into the left pocket of his coat, as he always did, and then the telephone had rung. "I think so," he said, "but I would rather go back and look." It had begun to rain, and by the time he came down again the last bus was gone.

A city of one million people uses about two hundred thousand cubic metres of drinking water a day. Half of it comes from wells, a third from the lake, and the rest from springs in the hills to the south. Before it reaches the pipes it is filtered through sand, tested every hour, and kept for a night in closed tanks. What is not used flows back to the lake within a week.`;

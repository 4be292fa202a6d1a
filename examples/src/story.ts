/** The story that the storyteller tells when it is given none. */
export const defaultStory = `The Ferryman's Thread

On the river Anse, below the town of Quill, there was a ferry that had no rope. Every other ferry on that water was tied to something: a cable, a chain, a post on either bank. Old Maren's ferry was a flat raft with a lantern on it, and it crossed because Maren said it would.

"How do you find the landing in the fog?" the passengers asked, for there was always fog.

"I count," said Maren. "Every stroke of the pole is a number, and no two strokes have the same one. As long as I know the last number, I know where I am."

She had an apprentice, a girl named Ilse, who thought this was the dullest secret in the world. Ilse wanted songs, or stars, or a trained heron. But she learned to pole and she learned to count, and at each stroke she said the number aloud, softly, so that the fog could hear it too.

One night in November a man came down to the landing with a clock under his arm. It was a tall clock, wrapped in blankets, and it was to be in Quill by morning, for a wedding. Maren had a fever and lay under the roof of the shed, so Ilse took the pole.

"Two hundred and twelve strokes," Maren called after her. "And if you lose your place, stop. Do not guess. A guess is how rafts find the weir."

Ilse pushed off. One, two, three. The lantern made a small yellow room in the fog, and in the room there were a girl, a man and a clock that ticked through its blankets. Forty. Fifty. At ninety-six the wind came round the bend and blew the lantern out, and the man cried out and caught at her arm, and the pole slid from her hands and was gone.

It was very dark. The raft turned, slowly, like something thinking.

"Where are we?" the man whispered.

"At ninety-six," said Ilse, and found to her surprise that it was true. The river could take the pole and the light and the whole of the shore, but it could not take the number, for she had said it aloud and it had been heard. She knelt down, and felt along the planks for the spare pole, and could not find it, and felt again.

Then, out of the fog and far behind her, came a voice. It was hoarse, and it was cross, and it was counting.

"Ninety-four," called Maren from the bank. "Ninety-five. Ninety-six. I have you at ninety-six, child. Is that right?"

"That's right!" Ilse shouted.

"Then you have lost nothing. Take your time. I shall be here, whenever you go on."

The spare pole was under the clock. It took the two of them to lift it, and the clock struck eleven in their arms as if in protest. Ilse stood, and set the pole to the bed of the river, and turned the raft until the current lay against her left side as it had before. She breathed in.

"Ninety-seven," she said.

"Ninety-seven," said the bank.

They went over together like that, the girl on the water and the old woman on the shore, neither one able to see the other, each saying the number that came next. At one hundred and fifty the voice behind grew too faint to hear; but by then there was a new one ahead, a sleepy boy on the landing at Quill, who had heard somebody counting in the dark and had begun, without knowing why, to count along.

At two hundred and twelve the raft touched wood.

The wedding was a good one, and the clock kept time at it. In the spring, Maren put the long pole into Ilse's hands for good. People still ask the young ferrywoman how she finds the landing in the fog, and hope for songs, or stars, or a trained heron.

"I count," says Ilse. "And there is always someone who knows the last number."
`;

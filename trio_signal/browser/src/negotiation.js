// The negotiation of one link, as a table.

/**
 * The negotiation of one link: for each state and input, the [next state, action].
 * An input without an entry changes nothing.
 *
 * States: `idle`; `asking`, we have requested an offer; `making` an offer; `offering`, our offer
 * is unanswered; `applying` an answer; `owing`, the same, and the other side has requested another
 * offer; `taking` their offer; `answering` it.
 *
 * Inputs from this side: `change`, we must make an offer; `need`, the other side must make one; and
 * the ends of steps: `made` or `failed`, `applied` or `refused`, `taken`, `answered`.
 * Inputs from the other side: `request` for an offer; `answer`; and its offers, by
 * {@link inputOf}.
 */
export const NEGOTIATION = {
  idle: {
    change: ['making', 'offer'],
    need: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  asking: {
    change: ['making', 'offer'],
    need: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  making: {
    made: ['offering', 'sendOffer'],
    failed: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
  offering: {
    answer: ['applying', 'apply'],
    answerLost: ['offering', 'sendOffer'],
    yield: ['taking', 'take'],
  },
  applying: {
    applied: ['idle', 'settle'],
    refused: ['offering', null],
    request: ['owing', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  owing: {
    applied: ['making', 'offer'],
    refused: ['offering', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  taking: {
    taken: ['answering', 'answer'],
    yield: ['taking', 'take'],
  },
  answering: {
    answered: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
};

/**
 * Classifies an offer of the other side.
 *
 * - `offer`: ignored while our own offer is unanswered; ours has priority.
 * - `yield`: has priority over ours, since we are polite, or since the other side does not know
 *   these rules.
 * - `answerLost`: the other side has accepted our first offer, and its answer was lost.
 *
 * @param {{ session?: string, re?: string }} offer
 * @param {{ polite: boolean, isFirst: boolean }} link - `isFirst`: no description of theirs was applied yet.
 */
export function inputOf({ session, re }, { polite, isFirst }) {
  if (!polite && session !== undefined) return 'offer';
  return isFirst && re !== undefined ? 'answerLost' : 'yield';
}
